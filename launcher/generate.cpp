#include "launcher/generate.h"

#include <chrono>

#include <ATen/Parallel.h>

#include "core/device.h"
#include "core/host.h"
#include "core/io/atomic_file.h"
#include "core/io/run_directory.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/progress.h"
#include "launcher/outputs.h"
#include "models/pipeline.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// One rank's part in all videos of its replica.
class Generator {
 public:
  Generator(const Job& job, const RunPlan& plan, const at::Device& device, Communicator& world)
      : job_(job),
        plan_(plan),
        device_(device),
        world_(world),
        mesh_(world, plan.mesh, group_maker(plan.machine.backend, device)),
        attention_(mesh_.cp(), plan.attention),
        dtype_(resolve_dtype(job.config.model.dtype, device)) {}

  std::vector<std::filesystem::path> run(ModelCache& models) {
    const std::vector<Unit> units = choose_units();
    if (units.empty()) return {};
    Stopwatch watch;
    std::vector<RequestConfig> requests;
    for (const Unit& unit : units) requests.push_back(job_.requests[unit.request]);
    const auto texts = encode_texts(*job_.checkpoint, requests, dtype_, device_, mesh_.replica());
    metrics_.text_seconds = watch.lap();
    set_phase("load");
    denoiser_ = models.denoiser(job_, device_);
    if (mesh_.replica().rank() == 0) vae_ = models.vae(job_, device_);
    metrics_.load_seconds = watch.lap();
    metrics_.load_peak_bytes = take_peak();
    log::info("weights loaded in {:.1f} s, text encoded in {:.1f} s", metrics_.load_seconds,
              metrics_.text_seconds);
    for (size_t i = 0; i < units.size(); ++i) make(units[i], texts[i]);
    return videos_;
  }

 private:
  // This replica's units that are not complete yet; its first rank looks, so that all of them see the same.
  std::vector<Unit> choose_units() {
    const auto all = job_.units();
    at::Tensor wanted = at::zeros({int64_t(all.size())}, at::kByte);
    for (size_t i = 0; i < all.size(); ++i) {
      const bool mine = int(i) % mesh_.shape().dp == mesh_.coord().dp;
      const bool complete = has_complete_output(job_.unit_directory(all[i])) && !job_.config.output.overwrite;
      if (mine && complete && mesh_.replica().rank() == 0) keep(all[i]);
      wanted[int64_t(i)] = uint8_t(mine && !complete);
    }
    mesh_.replica().broadcast(wanted, 0);
    std::vector<Unit> units;
    for (size_t i = 0; i < all.size(); ++i) {
      if (wanted[int64_t(i)].item<uint8_t>()) units.push_back(all[i]);
    }
    return units;
  }

  // A complete output of an earlier run. One that was killed right after a video has not noted it in the
  // list.
  void keep(const Unit& unit) {
    const auto directory = job_.unit_directory(unit);
    log::info("{} is complete and is kept", directory.string());
    if (job_.config.requests.empty()) return;
    const auto video = directory / "video.mp4";
    if (!has_result(job_.directory, video))
      append_result(job_.directory, job_.requests[unit.request].id, video, {});
  }

  void make(const Unit& unit, const Conditioning& text) {
    const RequestConfig& request = job_.requests[unit.request];
    const auto directory = job_.unit_directory(unit);
    const bool first = mesh_.replica().rank() == 0;
    const MovedSoFar before = moved();
    metrics_.step_seconds.clear();
    if (first) log::info("{}: {}", directory.string(), request.prompt);

    Stopwatch whole, watch;
    const at::Tensor latents = denoise(unit, text);
    synchronize(device_);
    metrics_.denoise_seconds = watch.lap();
    metrics_.denoise_peak_bytes = take_peak();
    std::optional<VideoOutput> video;
    if (first) {
      set_phase("decode");
      remove_old_outputs(directory);
      write_file_atomically(directory / "run.yaml", dump_yaml(job_.config));
      if (job_.config.output.save_latents) write_latents(latents, directory);
      at::set_num_threads(decode_threads());
      video.emplace(directory, settings(request, unit.sample));
      video->decode(*vae_, latents);
      at::set_num_threads(plan_.machine.threads_per_rank);
      metrics_.decode_seconds = watch.lap();
      log::info("decoded {} frames in {:.1f} s", request.num_frames, metrics_.decode_seconds);
    }
    set_phase("finish");
    mesh_.replica().barrier();
    metrics_.bytes_sent = double(moved().bytes - before.bytes);
    metrics_.exchange_seconds = moved().seconds - before.seconds;
    metrics_.decode_peak_bytes = take_peak();
    write_metrics(metrics_, mesh_.replica(), directory);
    if (first) {
      video->finish();  // last: a directory with a video is a complete one
      videos_.push_back(directory / "video.mp4");
      log::info("peak memory of rank {}: {}", world_.rank(), format_bytes(metrics_.peak_bytes()));
      if (!job_.config.requests.empty()) {
        append_result(job_.directory, request.id, directory / "video.mp4", whole.lap());
      }
    }
  }

  // The most memory of the phase that ends here.
  double take_peak() {
    const auto peak = double(peak_memory(device_));
    reset_peak_memory(device_);
    return peak;
  }

  at::Tensor denoise(const Unit& unit, const Conditioning& text) {
    const RequestConfig& request = job_.requests[unit.request];
    const auto schedule = job_.checkpoint->schedule(job_.config.scheduler, request.num_inference_steps);
    const at::Tensor noise = starting_noise(request, unit.sample, *denoiser_);
    Progress progress("denoise", schedule->steps(), world_.rank() == 0);
    Stopwatch step;
    return DenoiseLoop(*denoiser_, mesh_, attention_, device_)
        .run(request, text, *schedule, noise, [&](int64_t) {
          metrics_.step_seconds.push_back(step.lap());
          progress.advance();
        });
  }

  // The other ranks of the replica wait meanwhile, and their cores are free.
  int decode_threads() {
    const int theirs = plan_.machine.threads_per_rank * mesh_.replica().size();
    return std::max(plan_.machine.threads_per_rank, std::min(theirs, allowed_cores()));
  }

  OutputSettings settings(const RequestConfig& request, int64_t sample) const {
    return {.fps = int(job_.config.output.fps),
            .width = request.width,
            .height = request.height,
            .frames = request.num_frames,
            .metadata = {{"prompt", request.prompt},
                         {"negative_prompt", request.negative_prompt},
                         {"seed", std::to_string(request.seed + sample)},
                         {"config_hash", config_hash(job_.config)}}};
  }

  struct MovedSoFar {
    int64_t bytes;
    double seconds;
  };
  MovedSoFar moved() {
    const CommStats &cp = mesh_.cp().stats(), &cfg = mesh_.cfg().stats();
    return {cp.bytes_sent + cfg.bytes_sent + attention_.bytes_sent(),
            cp.seconds + cfg.seconds + attention_.seconds()};
  }

  const Job& job_;
  const RunPlan& plan_;
  at::Device device_;
  Communicator& world_;
  ProcessMesh mesh_;
  AttentionStrategy attention_;
  at::ScalarType dtype_;
  std::shared_ptr<const Denoiser> denoiser_;
  std::shared_ptr<const Vae> vae_;
  RankMetrics metrics_;
  std::vector<std::filesystem::path> videos_;
};

}  // namespace

std::shared_ptr<const Denoiser> ModelCache::denoiser(const Job& job, const at::Device& device) {
  std::lock_guard lock(mutex_);
  auto& cached = denoisers_[device.str()];
  if (!cached) cached = job.checkpoint->load_denoiser(resolve_dtype(job.config.model.dtype, device), device);
  return cached;
}

std::shared_ptr<const Vae> ModelCache::vae(const Job& job, const at::Device& device) {
  std::lock_guard lock(mutex_);
  auto& cached = vaes_[device.str()];
  if (!cached) cached = job.checkpoint->load_vae(resolve_dtype(job.config.model.vae_dtype, device), device);
  return cached;
}

std::vector<std::filesystem::path> generate(const Job& job, const RunPlan& plan, const RankPlace& place,
                                            Communicator& world, ModelCache& models) {
  set_phase("setup");
  at::set_num_threads(plan.machine.threads_per_rank);
  const at::Device device = device_for_rank(job.config.infer.device, place.local_rank);
  use_device(device);
  reset_peak_memory(device);
  return Generator(job, plan, device, world).run(models);
}

}  // namespace frameshard
