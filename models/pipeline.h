// From a request to latents and frames, with the parts of a checkpoint and the groups of a mesh.
#pragma once

#include "core/config.h"
#include "models/checkpoint.h"
#include "models/step_passes.h"
#include "parallel/mesh.h"
#include "parallel/strategies.h"

namespace frameshard {

/// The text embeddings of one request, [1, T, text_dim] each: of its prompts, and of the negative one, which
/// may be undefined where guidance is off.
struct Conditioning {
  std::vector<at::Tensor> cond;
  at::Tensor uncond;
};

/// The noise that sample `sample` of a request starts from, [1, C, F, h, w] float32 on the CPU: from its seed
/// plus the sample's number, or from `request.latents`.
at::Tensor starting_noise(const RequestConfig& request, int64_t sample, const Denoiser& denoiser);

/// Latents [1, C, F, h, w] after `steps` of a schedule's steps.
struct DenoiseState {
  at::Tensor latents;
  int64_t steps = 0;
  int64_t reused = 0;                 ///< of this run's steps, those whose blocks a step cache answered for
  std::vector<at::Tensor> history{};  ///< NoiseSchedule::history, after these steps
};

class Rebalance;

/// How a sample is denoised, where it is not for the request to say.
struct DenoiseOptions {
  double step_cache = 0;                 ///< LossyConfig::step_cache
  std::string cuda_graph = "auto";       ///< InferConfig::cuda_graph
  std::optional<at::ScalarType> wire{};  ///< what ranks exchange; left out: the denoiser's type
  std::vector<double> cfg_speeds{};      ///< of the cp groups that share the passes; empty: all alike
  Rebalance* rebalance = nullptr;  ///< may change the speeds of `attention` between steps; no step cache then
};

/// Whether the denoiser's launches of a step are recorded (common/launch_graph.h): on a GPU that computes
/// alone, since NCCL's collectives are not recorded, without a step cache, whose steps differ, and where it
/// is asked for or there are few tokens.
bool records_steps(const DenoiseOptions& options, const at::Device& device, int cp_size,
                   int64_t tokens_a_rank);

/// Denoises one sample on all ranks of a replica together.
class DenoiseLoop {
 public:
  DenoiseLoop(const Denoiser& denoiser, ProcessMesh& mesh, const AttentionStrategy& attention,
              at::Device device, DenoiseOptions options = {})
      : denoiser_(denoiser),
        mesh_(mesh),
        attention_(attention),
        device_(device),
        options_(std::move(options)) {}

  /// Returns the final latents [1, C, F, h, w], float32, the same on every rank. `start` is the noise, or
  /// where an earlier run was stopped (and `schedule` restored, whose history `start` need not have).
  /// `on_step` is called for each step when it has ended and its latents are finite; on GPUs the next step
  /// is under way then. 80 names the step that makes a NaN or Inf.
  at::Tensor run(const RequestConfig& request, const Conditioning& text, NoiseSchedule& schedule,
                 const DenoiseState& start, const std::function<void(const DenoiseState&)>& on_step) const;

 private:
  StepPasses passes_of(const RequestConfig& request, at::IntArrayRef latent_shape) const;
  Deal deal_of(const StepPasses& passes) const;
  size_t steps_behind() const;
  std::vector<bool> reused_steps(const NoiseSchedule& schedule, int64_t first) const;

  const Denoiser& denoiser_;
  ProcessMesh& mesh_;
  const AttentionStrategy& attention_;
  at::Device device_;
  DenoiseOptions options_;
};

/// Frames [1, 3, n, H, W] in [-1, 1] -> bytes [n, H, W, 3] on the CPU, as a video encoder takes them.
at::Tensor to_rgb_bytes(const at::Tensor& frames);

}  // namespace frameshard
