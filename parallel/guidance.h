// Classifier-free guidance (https://arxiv.org/abs/2207.12598), and how many passes a rank computes at once.
#pragma once

#include <cstdint>

#include <ATen/ATen.h>

namespace frameshard {

/// uncond + scale * (cond - uncond)
at::Tensor combine(const at::Tensor& cond, const at::Tensor& uncond, double scale);

/// With so few tokens a GPU waits for its host.
constexpr int64_t few_tokens = 4096;

/// Whether a rank computes its passes of one window in one batch: where a GPU would wait. Beyond, and on a
/// CPU always, one after the other takes less memory and time (docs/speed.md).
inline bool passes_together(bool on_gpu, int64_t tokens_a_rank) {
  return on_gpu && tokens_a_rank <= few_tokens;
}

}  // namespace frameshard
