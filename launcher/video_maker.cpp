#include "launcher/video_maker.h"

#include <ATen/Parallel.h>

#include "core/device.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/host.h"
#include "core/io/atomic_file.h"
#include "core/io/run_directory.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/progress.h"
#include "core/stop.h"
#include "core/text.h"
#include "launcher/calibration.h"
#include "models/masks.h"
#include "parallel/comm/settle.h"
#include "parallel/plan_costs.h"

namespace frameshard {
namespace {

// What a killed job may lose of a long denoising.
constexpr double save_every_seconds = 10;

// All prompts in one line of text.
std::string prompt_text(const RequestConfig& request) {
  std::string text;
  for (const PromptConfig& prompt : request.all_prompts()) text += (text.empty() ? "" : " | ") + prompt.text;
  return text;
}

}  // namespace

VideoMaker::VideoMaker(const Job& job, const RunPlan& plan, const RankPlace& place, const at::Device& device,
                       Communicator& world, const RankTools& tools)
    : job_(job),
      plan_(plan),
      place_(place),
      device_(device),
      world_(world),
      observer_(tools.observer),
      mesh_(world, plan.mesh, group_maker(plan.machine.backend, device)),
      attention_(mesh_.cp(), plan.attention, parse_overlap(job.config.infer.overlap_exchange),
                 plan.speeds_of(mesh_.coord())),
      decoders_(mesh_.replica(), mesh_.coord().dp, plan),
      parts_(parts_of(job.config, device, place)),
      models_(job, plan, parts_, tools.models, {place, mesh_, world, decoders_.member()}) {}

void VideoMaker::load(double text_seconds) {
  set_phase("load");
  world_.barrier();  // which leaves the cores to those that still encode text
  Stopwatch watch;
  models_.load();
  metrics_.text_seconds = text_seconds;
  metrics_.load_seconds = watch.lap();
  metrics_.load_peak_bytes = take_peak(device_);
  log::info("weights loaded in {:.1f} s, text encoded in {:.1f} s", metrics_.load_seconds, text_seconds);
}

std::optional<Failure> VideoMaker::make(const Unit& unit, const Conditioning& text) {
  set_phase("prepare");
  const auto directory = job_.unit_directory(unit);
  const Moved before = moved();
  metrics_.step_seconds.clear();
  metrics_.steps_reused = 0;
  metrics_.share_changes.clear();
  if (first()) log::info("{}: {}", directory.string(), one_line(prompt_text(job_.requests[unit.request])));

  Stopwatch watch;
  at::Tensor latents;
  // Every rank of the replica has the same latents after each step, so all of them fail, or none.
  if (auto failure = attempt([&] { latents = denoise(unit, text); })) {
    if (first()) resume_file(unit).remove();  // it leads to the same end
    return failure;
  }
  synchronize(device_);
  metrics_.denoise_seconds = watch.lap();
  metrics_.denoise_peak_bytes = take_peak(device_);
  models_.end_denoising();
  if (first() && job_.config.lossy.step_cache > 0) {
    const size_t steps = metrics_.step_seconds.size(), reused = size_t(metrics_.steps_reused);
    log::info("step cache {}: {} of {} steps computed, {} reused", job_.config.lossy.step_cache,
              steps - reused, steps, reused);
  }
  std::optional<VideoOutput> video;
  if (auto failure = decode(unit, latents, video)) return failure;
  metrics_.cp_bytes = double(moved().cp_bytes - before.cp_bytes);
  metrics_.cfg_bytes = double(moved().cfg_bytes - before.cfg_bytes);
  metrics_.exchange_seconds = moved().seconds - before.seconds;
  metrics_.decode_peak_bytes = take_peak(decoders_.member() ? parts_.vae.device : device_);
  set_phase("write");
  write_metrics(metrics_, mesh_.replica(), directory);
  observer_.write_trace(mesh_.replica(), directory);
  if (first()) {
    video->finish();  // last: a directory with a video is a complete one
    resume_file(unit).remove();
    log::info("peak memory of rank {}: {}", world_.rank(), format_bytes(metrics_.peak_bytes()));
  }
  // What one video's sizes left in the caches is of no use to the next one's.
  for (const at::Device& device : {device_, parts_.vae.device}) {
    if (device.is_cuda()) release_cached_memory(device);
  }
  return std::nullopt;
}

// What `work` throws where a video may fail alone.
std::optional<Failure> VideoMaker::attempt(const std::function<void()>& work) {
  try {
    work();
    return std::nullopt;
  } catch (...) {
    Failure failure = current_failure();
    // All ranks of a replica see a NaN; the one whose memory is exhausted would leave the others waiting.
    const bool exhausted_alone = failure.code == ExitCode::out_of_memory && mesh_.replica().size() == 1;
    if (!job_.goes_on() || (failure.code != ExitCode::not_finite && !exhausted_alone)) throw;
    return failure;
  }
}

at::Tensor VideoMaker::denoise(const Unit& unit, const Conditioning& text) {
  const RequestConfig& request = job_.requests[unit.request];
  const auto schedule = job_.checkpoint->schedule(job_.config.scheduler, request.num_inference_steps);
  const Denoiser& denoiser = models_.begin_denoising();
  noise_ = starting_noise(request, unit.sample, denoiser);
  const ResumeFile file = resume_file(unit);
  const DenoiseState start = file.load({.latents = noise_}, *schedule, device_, mesh_.replica());
  Progress progress("denoise", schedule->steps(), world_.rank() == 0 && !observer_.watches(), start.steps);
  observer_.video_begun(schedule->steps() - start.steps);
  std::optional<Rebalance> rebalance;
  if (rebalances(job_.config)) rebalance.emplace(mesh_, attention_, device_, work_of(request));
  Stopwatch step;
  double unsaved_seconds = 0;
  const at::Tensor latents =
      DenoiseLoop(denoiser, mesh_, attention_, device_,
                  {.step_cache = job_.config.lossy.step_cache,
                   .cuda_graph = job_.config.infer.cuda_graph,
                   .wire = types_of_ranks(job_.config, device_).wire,
                   .cfg_speeds = plan_.split().group_speeds(mesh_.coord().dp),
                   .rebalance = rebalance ? &*rebalance : nullptr})
          .run(request, text, *schedule, start, [&](const DenoiseState& state) {
            metrics_.step_seconds.push_back(step.lap());
            note_first_step();
            metrics_.steps_reused = double(state.reused);
            observer_.step_done(metrics_.step_seconds.back(), moved().cp_bytes, moved().cfg_bytes);
            progress.advance();
            unsaved_seconds += metrics_.step_seconds.back();
            const bool stop = asked_to_stop();
            if (stop || unsaved_seconds > save_every_seconds) {
              if (first()) file.save(state);
              mesh_.replica().barrier();  // nobody ends the job before it is on disk
              unsaved_seconds = 0;
            }
            if (stop) fail_stopped();
          });
  if (rebalance) metrics_.share_changes = rebalance->changes();
  return latents;
}

DenoiseWork VideoMaker::work_of(const RequestConfig& request) const {
  const ModelFacts facts = model_facts(job_, plan_.machine.device);
  const VideoClass video = video_class(request, facts);
  return {facts, video.tokens(), request.max_sequence_length,
          pass_counts(plan_.split(), video, mesh_.coord().dp)};
}

ResumeFile VideoMaker::resume_file(const Unit& unit) const {
  RunConfig config = job_.unit_config(unit);
  config.lossy.vae_tiling = LossyConfig().vae_tiling;  // no matter of the latents
  // Masks and low-rank changes of other content under the same name make another video.
  const RequestConfig& request = job_.requests[unit.request];
  const std::string contents = (request.prompts.empty() ? "" : masks_identity(request)) + job_.lora.identity;
  return ResumeFile(
      job_.unit_directory(unit),
      contents.empty() ? config_hash(config) : fmt::format("{:016x}", fnv1a(config_hash(config) + contents)));
}

// The ranks of a replica get the signal at different moments, and must leave at the same step.
bool VideoMaker::asked_to_stop() {
  return on_any(stop_requested(), mesh_.replica());
}

void VideoMaker::fail_stopped() {
  fail(ExitCode::stopped, "stopped by a signal; the same command goes on from here");
}

// Some ranks decode, and the others wait to hear how it went.
std::optional<Failure> VideoMaker::decode(const Unit& unit, const at::Tensor& latents,
                                          std::optional<VideoOutput>& video) {
  std::optional<Failure> failure;
  if (decoders_.member()) {
    use_all_cpus(place_);
    at::set_num_threads(decode_threads());
    failure = attempt([&] { decode_with_team(unit, latents, video); });
    models_.end_decoding();
    at::set_num_threads(plan_.machine.threads_per_rank);
    stay_on_own_cpus(place_, plan_.machine.threads_per_rank);
  }
  set_phase("finish");
  mesh_.replica().barrier();
  at::Tensor code = at::full({1}, int64_t(failure ? failure->code : ExitCode::ok), at::kLong);
  mesh_.replica().broadcast(code, 0);
  if (code.item<int64_t>() == 0) return std::nullopt;
  if (!first()) return Failure{ExitCode(code.item<int64_t>()), ""};
  video.reset();
  remove_old_outputs(job_.unit_directory(unit));
  std::error_code in_use;
  std::filesystem::remove(job_.unit_directory(unit), in_use);  // only where nothing else is in it
  return failure;
}

void VideoMaker::decode_with_team(const Unit& unit, const at::Tensor& latents,
                                  std::optional<VideoOutput>& video) {
  Stopwatch watch;
  set_phase("decode");
  if (first()) begin_output(unit, latents, video);
  const RequestConfig& request = job_.requests[unit.request];
  const Vae& vae = models_.begin_decoding();
  const at::Tensor here = latents.to(parts_.vae.device);
  const auto write = [&](const at::Tensor& frames) { video->write(frames); };
  if (plan_.decoding.in_tiles(request.height, request.width)) {
    decoders_.decode_in_tiles(vae, here, write);
  } else {
    decoders_.decode(vae, here, write);
  }
  metrics_.decode_seconds = watch.lap();
  if (!first()) return;
  video->write_preview();
  log::info("decoded {} frames in {:.1f} s", request.num_frames, metrics_.decode_seconds);
}

void VideoMaker::begin_output(const Unit& unit, const at::Tensor& latents,
                              std::optional<VideoOutput>& video) const {
  const auto directory = job_.unit_directory(unit);
  make_output_directory(directory);  // hosts may have disks of their own
  remove_old_outputs(directory);
  write_run_yaml(unit, directory);
  if (job_.config.output.save_latents) write_latents(latents, directory / "latents.safetensors");
  video.emplace(directory, settings(unit));
}

// A sample of a batch starts from its part of the batch's noise.
void VideoMaker::write_run_yaml(const Unit& unit, const std::filesystem::path& directory) const {
  const RequestConfig& request = job_.requests[unit.request];
  RunConfig alone = job_.unit_config(unit);
  if (request.latents && request.batch_size > 1) {
    const auto file = directory / "noise.safetensors";
    write_latents(noise_, file);
    alone.request->latents = file.string();
  }
  if (plan_.decoding.in_tiles(request.height, request.width))
    alone.lossy.vae_tiling = "on";  // also elsewhere
  write_file_atomically(directory / "run.yaml", dump_yaml(alone));
}

OutputSettings VideoMaker::settings(const Unit& unit) const {
  const RequestConfig& request = job_.requests[unit.request];
  return {.fps = int(job_.config.output.fps),
          .width = request.width,
          .height = request.height,
          .frames = request.num_frames,
          .metadata = {{"prompt", prompt_text(request)},
                       {"negative_prompt", request.negative_prompt},
                       {"seed", std::to_string(request.seed + unit.sample)},
                       {"config_hash", config_hash(job_.unit_config(unit))}}};
}

// Ranks that do not decode wait meanwhile, and their cores are free; those of other replicas are not.
int VideoMaker::decode_threads() {
  const int mine = plan_.machine.threads_per_rank, replica = mesh_.replica().size();
  const int host = plan_.machine.node_ranks();
  const int here = std::min(replica, host);  // of this replica on a host
  const int decoders = std::max(1, here / plan_.decoder_stride());
  const int share = allowed_cores() * here / (host * decoders);
  return std::max(mine, std::min(mine * plan_.decoder_stride(), share));
}

void VideoMaker::note_first_step() {
  if (metrics_.first_step_seconds > 0) return;
  metrics_.first_step_seconds = process_seconds();
  log::info("first step after {:.1f} s", metrics_.first_step_seconds);
}

// The most memory of the phase that ends here.
double VideoMaker::take_peak(const at::Device& device) {
  const auto peak = double(peak_memory(device));
  reset_peak_memory(device);
  observer_.phase_peak(int64_t(peak));
  return peak;
}

}  // namespace frameshard
