// The denoiser's passes of one step, and the prediction that they give together: guidance, several prompts
// with weights and masks, and context windows.
#pragma once

#include <vector>

#include <ATen/ATen.h>

#include "core/config.h"
#include "parallel/context_windows.h"
#include "parallel/work_units.h"

namespace frameshard {

/// One evaluation of the denoiser: a text over a window of the latents.
struct Pass {
  size_t text;         ///< of the prompts; their number is the negative prompt's
  FrameWindow frames;  ///< of the latents
};

/// Latent frames of a request's windows.
struct WindowSize {
  int64_t window, overlap;
};

/// The passes of every step of a request, and how their predictions become one:
///   a window's   cond = sum(w_i m_i p_i) / sum(w_i m_i), of prompt i's weight, mask and prediction
///                (as ComfyUI combines conditionings), then uncond + scale * (cond - uncond);
///   the whole    sum(v_k g_k) / sum(v_k), of window k's pyramid weights and guided prediction.
class StepPasses {
 public:
  /// latent_shape: [C, F, h, w]; `device`: of the predictions. Reads the masks; errors as prompt_masks().
  StepPasses(const RequestConfig& request, at::IntArrayRef latent_shape, WindowSize size,
             const at::Device& device = at::kCPU);

  /// Window by window, the prompts in order, then the negative one.
  const std::vector<Pass>& all() const { return passes_; }
  /// [1, C, frames, h, w] of a pass' latents and prediction; the same for all of them.
  const std::vector<int64_t>& shape() const { return shape_; }
  /// One prediction a pass, of shape(), in order -> [1, C, F, h, w] float32.
  at::Tensor combine(const std::vector<at::Tensor>& predictions) const;

 private:
  at::Tensor guided(const std::vector<at::Tensor>& predictions, size_t first) const;

  double scale_;
  bool guidance_;
  std::vector<at::Tensor> masks_;  // a prompt each, [1, 1, 1, h, w]; they sum to 1
  std::vector<FrameWindow> windows_;
  at::Tensor pyramid_, weights_;  // of a window's frames, and their sums over windows; [1, 1, frames, 1, 1]
  std::vector<Pass> passes_;
  std::vector<int64_t> latent_shape_, shape_;
};

/// A rank's passes, those of one list in one batch. `together`: all that it has of a window.
std::vector<std::vector<size_t>> batches_of(const std::vector<size_t>& mine, const std::vector<Pass>& passes,
                                            bool together);

}  // namespace frameshard
