#include "launcher/train/sample_drawer.h"

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/io/run_directory.h"
#include "core/phase.h"
#include "core/stop.h"
#include "launcher/outputs.h"
#include "launcher/placement.h"
#include "models/pipeline.h"
#include "parallel/comm/settle.h"

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

void SampleDrawer::encode_prompts(std::shared_ptr<const TextEncoder> encoder) {
  const RankParts parts = parts_of(run_.config, device_, place_);
  const auto load = [&](const LoadOptions& options) {
    return encoder ? encoder : run_.checkpoint->load_text_encoder(options);
  };
  texts_.emplace(run_.requests,
                 TextLoad{.load = load,
                          .encoder = {parts.text_encoder.dtype, parts.text_encoder.device},
                          .dtype = parts.denoiser.dtype},
                 mesh_);
}

// At any step the ranks of a replica can stop together.
void SampleDrawer::draw_one(const RequestConfig& request, const Denoiser& denoiser, const Vae* vae,
                            DecodeTeam& team, const std::filesystem::path& directory, Preview preview) {
  const auto schedule = run_.checkpoint->schedule(run_.config.scheduler, request.num_inference_steps);
  const auto stop_together = [&](const DenoiseState&) {
    if (on_any(stop_requested(), mesh_.replica())) fail(ExitCode::stopped, "a video is not drawn to its end");
  };
  const at::Tensor latents = DenoiseLoop(denoiser, mesh_, attention_, device_)
                                 .run(request, texts_->of(request), *schedule,
                                      {.latents = starting_noise(request, 0, denoiser)}, stop_together);
  if (!vae) return;
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
  const RankParts parts = parts_of(run_.config, device_, place_);
  team.decode(*vae, latents.to(parts.vae.device), [&](const at::Tensor& frames) { video->write(frames); });
  if (!video) return;
  if (preview == Preview::strip) video->write_preview();
  video->finish();
}

std::optional<std::vector<std::filesystem::path>> SampleDrawer::draw(const Denoiser& denoiser,
                                                                     const std::filesystem::path& directory,
                                                                     Preview preview) {
  const c10::NoGradGuard no_grad;
  const RankParts parts = parts_of(run_.config, device_, place_);
  DecodeTeam team(mesh_.replica(), mesh_.coord().dp, plan_);
  std::unique_ptr<Vae> vae;
  if (team.member()) vae = run_.checkpoint->load_vae({parts.vae.dtype, parts.vae.device});
  std::vector<std::filesystem::path> videos;
  bool stopped = false;
  for (size_t i = 0; i < run_.requests.size() && !stopped; ++i) {
    const RequestConfig& request = run_.requests[i];
    videos.push_back(directory / request.id / "video.mp4");
    if (int(i % size_t(plan_.mesh.dp)) != mesh_.coord().dp) continue;
    set_phase("sample", int64_t(i) + 1, int64_t(run_.requests.size()));
    try {
      draw_one(request, denoiser, vae.get(), team, directory, preview);
    } catch (const Error& error) {
      if (error.code() != ExitCode::stopped) throw;
      stopped = true;
    }
  }
  if (on_any(stopped, world_)) return std::nullopt;
  if (world_.rank() != 0) videos.clear();
  return videos;
}

}  // namespace frameshard
