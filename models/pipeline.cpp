#include "models/pipeline.h"

#include <c10/core/GradMode.h>

#include "core/device.h"
#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/phase.h"
#include "core/rng.h"
#include "models/checked_steps.h"
#include "models/common/launch_graph.h"
#include "models/common/step_cache.h"
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

// Of each list of branches that this rank computes.
std::vector<TextContext> DenoiseLoop::contexts_of(const GuidanceCombiner& guidance,
                                                  const Conditioning& text) const {
  std::vector<TextContext> contexts;
  for (const auto& branches : guidance.mine()) {
    std::vector<at::Tensor> embeddings;
    for (Branch branch : branches) embeddings.push_back(branch == Branch::cond ? text.cond : text.uncond);
    contexts.push_back(denoiser_.prepare(at::cat(embeddings).to(device_)));
  }
  return contexts;
}

// How far on_step is behind, the same on all ranks: what it does together must come at the same place among
// their exchanges.
size_t DenoiseLoop::steps_behind() const {
  at::Tensor behind = at::full({1}, int64_t(device_.is_cuda()), at::kLong);
  mesh_.replica().all_reduce(behind, ReduceOp::min);
  return size_t(behind.item<int64_t>());
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
  const int64_t tokens = denoiser_.token_count(start.latents.sizes().slice(1));
  const Partition pieces = attention_.divide(tokens);
  const ParallelSequence sequence(mesh_.cp(), *attention_, pieces);
  const GuidanceCombiner guidance(mesh_.cfg(), request.guidance_scale,
                                  branches_together(device_.is_cuda(), pieces.largest()));
  const std::vector<TextContext> contexts = contexts_of(guidance, text);
  const std::vector<bool> reuse = reused_steps(schedule, start.steps);
  std::vector<StepCache> caches(options_.step_cache > 0 ? contexts.size() : 0);
  int64_t reused = 0;
  LaunchGraphMaker graphs;
  if (records_steps(options_, device_, mesh_.cp().size(), pieces.largest())) graphs = launch_graphs(device_);
  std::vector<RecordedCall> predict;  // a list of branches each, of latents and timesteps
  for (size_t list = 0; list < contexts.size(); ++list) {
    predict.emplace_back(
        [&, list](const RecordedCall::Inputs& inputs) {
          return denoiser_.predict(inputs[0].expand({inputs[1].size(0), -1, -1, -1, -1}), inputs[1],
                                   contexts[list], sequence, caches.empty() ? nullptr : &caches[list]);
        },
        graphs);
  }
  CheckedSteps checked(schedule.steps(), steps_behind(), finite_look(device_), on_step);
  at::Tensor latents = start.latents.to(device_);
  for (int64_t i = start.steps; i < schedule.steps(); ++i) {
    set_phase("denoise", i + 1, schedule.steps());
    const bool reuse_now = reuse[size_t(i - start.steps)];
    reused += int64_t(reuse_now);
    for (StepCache& cache : caches) cache.reuse = reuse_now;
    const at::Tensor prediction = guidance([&](size_t list) {
      const int64_t batch = int64_t(guidance.mine()[list].size());
      return predict[list]({latents, at::full({batch}, schedule.timestep(i), latents.options())});
    });
    latents = schedule.step(prediction, i, latents);
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
