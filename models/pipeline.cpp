#include "models/pipeline.h"

#include <map>

#include <c10/core/GradMode.h>

#include "core/device.h"
#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/phase.h"
#include "core/rng.h"
#include "parallel/guidance.h"

namespace frameshard {
namespace {

// [1, T, width] from the first rank to all; `mine` is undefined on the others.
at::Tensor broadcast_embedding(const at::Tensor& mine, int64_t tokens, at::ScalarType dtype,
                               Communicator& replica) {
  at::Tensor width = at::full({1}, mine.defined() ? mine.size(-1) : 0, at::kLong);
  replica.broadcast(width, 0);
  at::Tensor embedding =
      mine.defined() ? mine.contiguous()
                     : at::empty({1, tokens, width.item<int64_t>()}, at::TensorOptions().dtype(dtype));
  replica.broadcast(embedding, 0);
  return embedding;
}

}  // namespace

std::vector<Conditioning> encode_texts(const Checkpoint& checkpoint, std::span<const RequestConfig> requests,
                                       at::ScalarType dtype, const at::Device& device,
                                       Communicator& replica) {
  set_phase("text");
  std::unique_ptr<TextEncoder> encoder;
  if (replica.rank() == 0) encoder = checkpoint.load_text_encoder(dtype, device);
  std::map<std::pair<std::string, int64_t>, at::Tensor> known;  // the negative prompt is often the same
  auto embed = [&](const std::string& prompt, int64_t tokens) {
    at::Tensor& embedding = known[{prompt, tokens}];
    if (embedding.defined()) return embedding;
    const at::Tensor mine = encoder ? encoder->encode(prompt, tokens).to(at::kCPU) : at::Tensor();
    return embedding = broadcast_embedding(mine, tokens, dtype, replica);
  };
  std::vector<Conditioning> texts;
  for (const RequestConfig& request : requests) {
    Conditioning text{.cond = embed(request.prompt, request.max_sequence_length), .uncond = {}};
    if (request.uses_guidance()) text.uncond = embed(request.negative_prompt, request.max_sequence_length);
    texts.push_back(text);
  }
  encoder.reset();
  release_cached_memory(device);
  return texts;
}

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
                            const at::Tensor& noise, const std::function<void(int64_t step)>& on_step) const {
  const c10::NoGradGuard no_grad;
  const GuidanceCombiner guidance(mesh_.cfg(), request.guidance_scale);
  const int64_t tokens = denoiser_.token_count(noise.sizes().slice(1));
  const ParallelSequence sequence(mesh_.cp(), *attention_, Partition::even(tokens, mesh_.cp().size()));
  TextContext contexts[2];
  for (Branch branch : guidance.mine()) {
    const at::Tensor& embedding = branch == Branch::cond ? text.cond : text.uncond;
    contexts[int(branch)] = denoiser_.prepare(embedding.to(device_));
  }
  at::Tensor latents = noise.to(device_);
  for (int64_t i = 0; i < schedule.steps(); ++i) {
    set_phase("denoise", i + 1, schedule.steps());
    const at::Tensor timestep = at::full({1}, schedule.timestep(i), latents.options());
    const at::Tensor prediction = guidance(
        [&](Branch branch) { return denoiser_.predict(latents, timestep, contexts[int(branch)], sequence); });
    latents = schedule.step(prediction, i, latents);
    if (!at::isfinite(latents).all().item<bool>()) {
      fail(ExitCode::not_finite, "step {} of {} made a NaN or Inf in the latents; try model.dtype=float32",
           i + 1, schedule.steps());
    }
    on_step(i);
  }
  return latents;
}

at::Tensor to_rgb_bytes(const at::Tensor& frames) {
  const at::Tensor bytes = (frames.to(at::kFloat) / 2 + 0.5).clamp(0, 1).mul(255).round().to(at::kByte);
  return bytes.squeeze(0).permute({1, 2, 3, 0}).contiguous().to(at::kCPU);
}

}  // namespace frameshard
