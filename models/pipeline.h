// From a request to latents and frames, with the parts of a checkpoint and the groups of a mesh.
#pragma once

#include "core/config.h"
#include "models/checkpoint.h"
#include "parallel/mesh.h"
#include "parallel/strategies.h"

namespace frameshard {

/// The text embeddings of one request, [1, T, text_dim]; `uncond` is undefined where guidance is off.
struct Conditioning {
  at::Tensor cond, uncond;
};

/// The noise that sample `sample` of a request starts from, [1, C, F, h, w] float32 on the CPU: from its seed
/// plus the sample's number, or from `request.latents`.
at::Tensor starting_noise(const RequestConfig& request, int64_t sample, const Denoiser& denoiser);

/// Latents [1, C, F, h, w] after `steps` of a schedule's steps.
struct DenoiseState {
  at::Tensor latents;
  int64_t steps = 0;
};

/// Denoises one sample on all ranks of a replica together.
class DenoiseLoop {
 public:
  DenoiseLoop(const Denoiser& denoiser, ProcessMesh& mesh, const AttentionStrategy& attention,
              at::Device device)
      : denoiser_(denoiser), mesh_(mesh), attention_(attention), device_(device) {}

  /// Returns the final latents [1, C, F, h, w], float32, the same on every rank. `start` is the noise, or
  /// where an earlier run was stopped (and `schedule` restored). `on_step` is called after each step. 80 at
  /// the step that makes a NaN or Inf.
  at::Tensor run(const RequestConfig& request, const Conditioning& text, NoiseSchedule& schedule,
                 const DenoiseState& start, const std::function<void(const DenoiseState&)>& on_step) const;

 private:
  const Denoiser& denoiser_;
  ProcessMesh& mesh_;
  const AttentionStrategy& attention_;
  at::Device device_;
};

/// Frames [1, 3, n, H, W] in [-1, 1] -> bytes [n, H, W, 3] on the CPU, as a video encoder takes them.
at::Tensor to_rgb_bytes(const at::Tensor& frames);

}  // namespace frameshard
