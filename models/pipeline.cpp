#include "models/pipeline.h"

#include <c10/core/GradMode.h>

#include "core/device.h"
#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/phase.h"
#include "core/rng.h"
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

at::Tensor DenoiseLoop::run(const RequestConfig& request, const Conditioning& text, NoiseSchedule& schedule,
                            const DenoiseState& start,
                            const std::function<void(const DenoiseState&)>& on_step) const {
  const c10::NoGradGuard no_grad;
  const int64_t tokens = denoiser_.token_count(start.latents.sizes().slice(1));
  const Partition pieces = Partition::even(tokens, mesh_.cp().size());
  const ParallelSequence sequence(mesh_.cp(), *attention_, pieces);
  const GuidanceCombiner guidance(mesh_.cfg(), request.guidance_scale,
                                  branches_together(device_.is_cuda(), pieces.largest()));
  std::vector<TextContext> contexts;
  for (const auto& branches : guidance.mine()) {
    std::vector<at::Tensor> embeddings;
    for (Branch branch : branches) embeddings.push_back(branch == Branch::cond ? text.cond : text.uncond);
    contexts.push_back(denoiser_.prepare(at::cat(embeddings).to(device_)));
  }
  at::Tensor latents = start.latents.to(device_);
  for (int64_t i = start.steps; i < schedule.steps(); ++i) {
    set_phase("denoise", i + 1, schedule.steps());
    const at::Tensor prediction = guidance([&](size_t list) {
      const int64_t batch = int64_t(guidance.mine()[list].size());
      const at::Tensor timestep = at::full({batch}, schedule.timestep(i), latents.options());
      return denoiser_.predict(latents.expand({batch, -1, -1, -1, -1}), timestep, contexts[list], sequence);
    });
    latents = schedule.step(prediction, i, latents);
    if (!at::isfinite(latents).all().item<bool>()) {
      fail(ExitCode::not_finite, "step {} of {} made a NaN or Inf in the latents; try model.dtype=float32",
           i + 1, schedule.steps());
    }
    on_step({latents, i + 1});
  }
  return latents;
}

at::Tensor to_rgb_bytes(const at::Tensor& frames) {
  const at::Tensor bytes = (frames.to(at::kFloat) / 2 + 0.5).clamp(0, 1).mul(255).round().to(at::kByte);
  return bytes.squeeze(0).permute({1, 2, 3, 0}).contiguous().to(at::kCPU);
}

}  // namespace frameshard
