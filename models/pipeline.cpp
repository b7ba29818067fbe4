#include "models/pipeline.h"

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/phase.h"
#include "core/rng.h"
#include "models/checked_steps.h"
#include "models/common/launch_graph.h"
#include "models/common/step_cache.h"
#include "models/rank_passes.h"
#include "models/rebalance.h"
#include "parallel/comm/text.h"
#include "parallel/guidance.h"

namespace frameshard {
at::Tensor starting_noise(const RequestConfig& request, int64_t sample, const Denoiser& denoiser) {
  std::vector<int64_t> shape = denoiser.latent_shape(request.num_frames, request.height, request.width);
  shape.insert(shape.begin(), 1);
  if (!request.latents) return initial_noise(shape, uint64_t(request.seed + sample));
  const at::Tensor latents = WeightFiles::open(*request.latents).read("latents").to(at::kFloat);
  shape[0] = request.batch_size;
  if (latents.sizes() != at::IntArrayRef(shape)) {
    fail(ExitCode::bad_data, "{}: latents of shape {}; this request needs {}", *request.latents,
         format_shape(latents.sizes()), format_shape(shape));
  }
  return latents.narrow(0, sample, 1);
}

// Of the steps from `first` on. One of the ranks says it: on other hardware the same changes may be rounded
// to the other side. The first one here is computed whatever it was before a stop: what it would reuse is
// gone.
std::vector<bool> DenoiseLoop::reused_steps(const NoiseSchedule& schedule, int64_t first) const {
  std::vector<bool> reuse(size_t(std::max<int64_t>(0, schedule.steps() - first)), false);
  if (options_.step_cache <= 0 || reuse.empty()) return reuse;
  std::vector<double> timesteps;
  for (int64_t i = 0; i < schedule.steps(); ++i) timesteps.push_back(schedule.timestep(i));
  const at::Tensor all = at::tensor(timesteps, at::kDouble).to(device_, at::kFloat);
  const auto every = steps_to_reuse(denoiser_.modulation_changes(all), options_.step_cache);
  at::Tensor agreed = at::tensor(std::vector<int64_t>(every.begin() + first, every.end()), at::kLong);
  mesh_.replica().broadcast(agreed, 0);
  for (size_t i = 1; i < reuse.size(); ++i) reuse[i] = agreed[int64_t(i)].item<int64_t>() != 0;
  return reuse;
}

StepPasses DenoiseLoop::passes_of(const RequestConfig& request, at::IntArrayRef latent_shape) const {
  auto latent_frames = [&](int64_t frames) {
    return denoiser_.latent_shape(frames, request.height, request.width)[1];
  };
  WindowSize size{latent_shape[1], 0};
  if (request.context) {
    size = {latent_frames(request.context->window), latent_frames(request.context->overlap + 1) - 1};
  }
  return StepPasses(request, latent_shape, size, device_);
}

// All passes cost the same.
Deal DenoiseLoop::deal_of(const StepPasses& passes) const {
  const std::vector<double> alike(size_t(mesh_.cfg().size()), 1.0);
  return schedule(std::vector<double>(passes.all().size(), 1.0),
                  options_.cfg_speeds.empty() ? alike : options_.cfg_speeds);
}

// How far on_step is behind, the same on all ranks: what it does together must come at the same place among
// their exchanges.
size_t DenoiseLoop::steps_behind() const {
  return size_t(reduce_number(mesh_.replica(), device_.is_cuda(), ReduceOp::min));
}

bool records_steps(const DenoiseOptions& options, const at::Device& device, int cp_size,
                   int64_t tokens_a_rank) {
  if (options.cuda_graph == "off" || !device.is_cuda() || cp_size > 1 || options.step_cache > 0) return false;
  // Beyond, the graph's memory would only be missed.
  return options.cuda_graph == "on" || tokens_a_rank <= few_tokens;
}

at::Tensor DenoiseLoop::run(const RequestConfig& request, const Conditioning& text, NoiseSchedule& schedule,
                            const DenoiseState& start,
                            const std::function<void(const DenoiseState&)>& on_step) const {
  const c10::NoGradGuard no_grad;
  const StepPasses passes = passes_of(request, start.latents.sizes().slice(1));
  const Deal deal = deal_of(passes);
  const std::vector<std::vector<int64_t>> shapes(passes.all().size(), passes.shape());
  const at::ScalarType wire = options_.wire.value_or(denoiser_.dtype());
  const auto options = at::TensorOptions().dtype(wire).device(device_);
  const int64_t tokens = denoiser_.token_count(at::IntArrayRef(passes.shape()).slice(1));
  const Partition pieces = attention_.divide(tokens);
  std::optional<ParallelSequence> sequence;  // made anew, in its place, when the shares change
  sequence.emplace(mesh_.cp(), *attention_, pieces, wire);
  const std::vector<bool> reuse = reused_steps(schedule, start.steps);
  RankPasses mine(denoiser_, *sequence, passes, deal[size_t(mesh_.cfg().rank())], text, device_,
                  {.together = passes_together(device_.is_cuda(), pieces.largest()),
                   .step_cache = options_.step_cache > 0,
                   .recorded = records_steps(options_, device_, mesh_.cp().size(), pieces.largest())});
  int64_t reused = 0;
  CheckedSteps checked(schedule.steps(), steps_behind(), finite_look(device_), on_step);
  at::Tensor latents = start.latents.to(device_);
  for (int64_t i = start.steps; i < schedule.steps(); ++i) {
    set_phase("denoise", i + 1, schedule.steps());
    const bool reuse_now = reuse[size_t(i - start.steps)];
    reused += int64_t(reuse_now);
    if (options_.rebalance) options_.rebalance->begin_step();
    auto predictions = mine.predict(latents, schedule.timestep(i), reuse_now);
    // This rank's own are rounded too: all ranks go on from the same numbers.
    for (at::Tensor& each : predictions) each = each.to(wire);
    const auto all = gather_units(predictions, deal, shapes, mesh_.cfg(), options);
    if (options_.rebalance && options_.rebalance->end_step(i + 1)) {
      sequence.emplace(mesh_.cp(), *attention_, attention_.divide(tokens), wire);
    }
    latents = schedule.step(passes.combine(all), i, latents);
    checked.add({latents, i + 1, reused, schedule.history()});
  }
  checked.finish();
  return latents;
}

at::Tensor to_rgb_bytes(const at::Tensor& frames) {
  const at::Tensor bytes = (frames.to(at::kFloat) / 2 + 0.5).clamp(0, 1).mul(255).round().to(at::kByte);
  return bytes.squeeze(0).permute({1, 2, 3, 0}).contiguous().to(at::kCPU);
}

}  // namespace frameshard
