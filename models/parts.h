// The parts of a video model, each single-device code. A family implements them; the pipeline knows these
// alone.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/error.h"
#include "models/weights.h"
#include "parallel/sequence.h"

namespace frameshard {

class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  /// Prompt -> [1, max_length, text_dim]; rows past its tokens are 0. Differentiable by the weights that
  /// require gradients.
  virtual at::Tensor encode(const std::string& prompt, int64_t max_length) const = 0;
  /// As Denoiser::weights().
  virtual const WeightList& weights() const {
    fail(ExitCode::internal, "this text encoder does not show its weights");
  }
};

/// What a denoiser derives from a text once a request: it does not depend on the timestep.
struct TextContext {
  std::vector<at::Tensor> k, v;  ///< a layer each, [B, T, H, D]
  at::Tensor weight;             ///< of the keys (common/text_rows.h), or undefined
};

struct StepCache;

/// Runs the blocks of a denoiser that is trained. Here comes in who gathers a block's weights before it, or
/// has it computed again in the backward pass.
class BlockRunner {
 public:
  using Inputs = std::vector<at::Tensor>;
  using Block = std::function<at::Tensor(const Inputs& inputs)>;
  virtual ~BlockRunner() = default;
  /// block(inputs), differentiable by the inputs and by the block's weights. All else that `block` reads must
  /// stay as it is until the backward pass has ended.
  virtual at::Tensor run(size_t index, const Block& block, const Inputs& inputs) const {
    return block(inputs);
  }
};

class Denoiser {
 public:
  virtual ~Denoiser() = default;
  virtual at::ScalarType dtype() const = 0;
  /// Text embedding [B, T, text_dim] -> keys and values of every cross-attention.
  virtual TextContext prepare(const at::Tensor& text) const = 0;
  /// latents [B, C, F, h, w], timestep [B] -> prediction of the same shape, the same on every rank of the
  /// sequence. `cache` (common/step_cache.h) may answer for the blocks: one a text and request, or null.
  virtual at::Tensor predict(const at::Tensor& latents, const at::Tensor& timestep, const TextContext& text,
                             const ParallelSequence& sequence, StepCache* cache) const = 0;
  at::Tensor predict(const at::Tensor& latents, const at::Tensor& timestep, const TextContext& text,
                     const ParallelSequence& sequence) const {
    return predict(latents, timestep, text, sequence, nullptr);
  }
  /// As predict(), from the text's embedding [B, T, text_dim], with gradients by the weights that require
  /// them: each rank of the sequence has its share of them, and they add up.
  virtual at::Tensor predict_for_training(const at::Tensor& latents, const at::Tensor& timestep,
                                          const at::Tensor& text, const ParallelSequence& sequence,
                                          const BlockRunner& runner) const {
    require(false, "this denoiser cannot be trained");
    return {};
  }
  /// Its weights and layers; what the list points at may be changed while nobody uses the denoiser.
  virtual const WeightList& weights() const {
    fail(ExitCode::internal, "this denoiser does not show its weights");
  }
  /// Timesteps [n] -> how far what modulates the blocks moves from each to the next, [n - 1]: the L1 norm of
  /// the difference over that of the former.
  virtual std::vector<double> modulation_changes(const at::Tensor& timesteps) const = 0;
  /// Turns the blocks' linear layers into 8-bit floats (common/float8.h), one at a time; there is no way
  /// back.
  virtual void quantize_linear() = 0;
  /// Moves the weights to another device. Nobody may use it meanwhile.
  virtual void move_to(const at::Device& device) {
    require(false, "this denoiser's weights stay on their device, asked to move to {}", device.str());
  }
  /// Tokens of one latent video [C, F, h, w].
  virtual int64_t token_count(at::IntArrayRef latent_shape) const = 0;
  /// [C, F, h, w] of the latents for a video of this size.
  virtual std::vector<int64_t> latent_shape(int64_t frames, int64_t height, int64_t width) const = 0;
};

/// Rows [begin, end) of latents or of a picture, from the top.
struct Rows {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

class Vae {
 public:
  virtual ~Vae() = default;
  /// Final latents [1, C, F, h, w] as the scheduler leaves them -> frames in [-1, 1], handed to `sink` as
  /// they come: [1, 3, n, H, W] each time, in order. Of the picture only the band that belongs to `rows` of
  /// the latents, as it is in the undivided picture: what lies around it is computed as far as it is seen.
  virtual void decode(const at::Tensor& latents, Rows rows,
                      const std::function<void(const at::Tensor& frames)>& sink) const = 0;
  /// The whole picture.
  void decode(const at::Tensor& latents, const std::function<void(const at::Tensor& frames)>& sink) const {
    decode(latents, {0, latents.size(3)}, sink);
  }
  /// The whole picture, not limited to [-1, 1]: tiles are blended first (models/tiled_decode.h).
  virtual void decode_unlimited(const at::Tensor& latents,
                                const std::function<void(const at::Tensor& frames)>& sink) const = 0;
  /// As Denoiser::move_to.
  virtual void move_to(const at::Device& device) {
    require(false, "this VAE's weights stay on their device, asked to move to {}", device.str());
  }
  /// Frames [B, 3, 4k+1, H, W] in [-1, 1] -> mean and log variance of the latents, [B, 2C, k+1, h, w], before
  /// normalisation.
  virtual at::Tensor encode(const at::Tensor& frames) const = 0;
  /// That mean [B, C, k+1, h, w] -> latents as denoising ends with them, float32: what decode() takes.
  virtual at::Tensor normalised(const at::Tensor& mean) const {
    fail(ExitCode::internal, "this VAE does not normalise latents");
  }
  /// As Denoiser::weights(). encode() and decode_unlimited() are differentiable by those that require
  /// gradients.
  virtual const WeightList& weights() const {
    fail(ExitCode::internal, "this VAE does not show its weights");
  }
};

/// The solver of one request: it holds the history of that request.
class NoiseSchedule {
 public:
  virtual ~NoiseSchedule() = default;
  virtual int64_t steps() const = 0;
  /// What the denoiser is told at step i.
  virtual double timestep(int64_t i) const = 0;
  /// Prediction and latents at step i -> latents at step i + 1, float32. Steps are taken in order.
  virtual at::Tensor step(const at::Tensor& prediction, int64_t i, const at::Tensor& latents) = 0;

  /// What later steps need of those that were taken, and the way back: `steps_taken` of them. A solver
  /// without a memory has none.
  virtual std::vector<at::Tensor> history() const { return {}; }
  virtual void restore(std::vector<at::Tensor> history, int64_t steps_taken) {}
};

}  // namespace frameshard
