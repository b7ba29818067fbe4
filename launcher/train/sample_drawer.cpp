#include "launcher/train/sample_drawer.h"

#include <c10/core/GradMode.h>

#include "core/io/run_directory.h"
#include "core/phase.h"
#include "launcher/decode_team.h"
#include "launcher/outputs.h"
#include "launcher/placement.h"
#include "models/pipeline.h"

namespace frameshard {
namespace {

RunPlan plan_of(const Job& run, const PlanMachine& machine) {
  PlanMachine alike = machine;
  alike.speeds.clear();  // the devices' weights are for samples of the training
  return make_plan(run.config, model_facts(run, machine.device), alike);
}

}  // namespace

SampleDrawer::SampleDrawer(const Job& run, const PlanMachine& machine, const RankPlace& place,
                           at::Device device, Communicator& world)
    : run_(run),
      place_(place),
      device_(device),
      world_(world),
      plan_(plan_of(run, machine)),
      mesh_(world, plan_.mesh, group_maker(machine.backend, device)),
      attention_(mesh_.cp(), plan_.attention) {}

void SampleDrawer::encode_prompts() {
  const RankParts parts = parts_of(run_.config, device_, place_.local_rank);
  texts_.emplace(*run_.checkpoint, run_.requests,
                 TextLoad{{parts.text_encoder.dtype, parts.text_encoder.device}, parts.denoiser.dtype},
                 mesh_);
}

std::vector<std::filesystem::path> SampleDrawer::draw(const Denoiser& denoiser,
                                                      const std::filesystem::path& directory,
                                                      Preview preview) {
  const c10::NoGradGuard no_grad;
  const RankParts parts = parts_of(run_.config, device_, place_.local_rank);
  DecodeTeam team(mesh_.replica(), mesh_.coord().dp, plan_);
  std::unique_ptr<Vae> vae;
  if (team.member()) vae = run_.checkpoint->load_vae({parts.vae.dtype, parts.vae.device});
  std::vector<std::filesystem::path> videos;
  for (size_t i = 0; i < run_.requests.size(); ++i) {
    const RequestConfig& request = run_.requests[i];
    videos.push_back(directory / request.id / "video.mp4");
    if (int(i % size_t(plan_.mesh.dp)) != mesh_.coord().dp) continue;
    set_phase("sample", int64_t(i) + 1, int64_t(run_.requests.size()));
    const auto schedule = run_.checkpoint->schedule(run_.config.scheduler, request.num_inference_steps);
    const at::Tensor latents =
        DenoiseLoop(denoiser, mesh_, attention_, device_)
            .run(request, texts_->of(request), *schedule, {.latents = starting_noise(request, 0, denoiser)},
                 [](const DenoiseState&) {});
    if (!team.member()) continue;
    std::optional<VideoOutput> video;
    if (mesh_.replica().rank() == 0) {
      make_output_directory(directory / request.id);
      remove_old_outputs(directory / request.id);
      video.emplace(directory / request.id, OutputSettings{.fps = int(run_.config.output.fps),
                                                           .width = request.width,
                                                           .height = request.height,
                                                           .frames = request.num_frames,
                                                           .metadata = {{"prompt", request.prompt}}});
    }
    team.decode(*vae, latents.to(parts.vae.device), [&](const at::Tensor& frames) { video->write(frames); });
    if (!video) continue;
    if (preview == Preview::strip) video->write_preview();
    video->finish();
  }
  world_.barrier();
  return world_.rank() == 0 ? videos : std::vector<std::filesystem::path>{};
}

}  // namespace frameshard
