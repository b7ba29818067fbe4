// From a request to latents and frames, with the parts of a checkpoint and the groups of a mesh.
#pragma once

#include <span>

#include "core/config.h"
#include "models/checkpoint.h"
#include "parallel/mesh.h"
#include "parallel/strategies.h"

namespace frameshard {

/// The text embeddings of one request, [1, T, text_dim]; `uncond` is undefined where guidance is off.
struct Conditioning {
  at::Tensor cond, uncond;
};

/// Encodes the prompts of all requests. The first rank of the replica loads the text encoder, encodes and
/// frees it again; the others receive the embeddings. On the CPU, in `dtype`.
std::vector<Conditioning> encode_texts(const Checkpoint& checkpoint, std::span<const RequestConfig> requests,
                                       at::ScalarType dtype, const at::Device& device, Communicator& replica);

/// The noise that sample `sample` of a request starts from, [1, C, F, h, w] float32 on the CPU: from its seed
/// plus the sample's number, or from `request.latents`.
at::Tensor starting_noise(const RequestConfig& request, int64_t sample, const Denoiser& denoiser);

/// Denoises one sample on all ranks of a replica together.
class DenoiseLoop {
 public:
  DenoiseLoop(const Denoiser& denoiser, ProcessMesh& mesh, const AttentionStrategy& attention,
              at::Device device)
      : denoiser_(denoiser), mesh_(mesh), attention_(attention), device_(device) {}

  /// Returns the final latents [1, C, F, h, w], float32, the same on every rank. `on_step(i)` is called after
  /// each step. 80 at the step that makes a NaN or Inf.
  at::Tensor run(const RequestConfig& request, const Conditioning& text, NoiseSchedule& schedule,
                 const at::Tensor& noise, const std::function<void(int64_t step)>& on_step) const;

 private:
  const Denoiser& denoiser_;
  ProcessMesh& mesh_;
  const AttentionStrategy& attention_;
  at::Device device_;
};

/// Frames [1, 3, n, H, W] in [-1, 1] -> bytes [n, H, W, 3] on the CPU, as a video encoder takes them.
at::Tensor to_rgb_bytes(const at::Tensor& frames);

}  // namespace frameshard
