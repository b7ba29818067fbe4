// How the tensors of fused.h may lie in memory for loops over rows.
#pragma once

#include <ATen/ATen.h>

namespace frameshard {

/// Rows of the last dim that lie at one distance from each other, whatever lies between them: x [B, S, d].
inline bool has_row_stride(const at::Tensor& x) {
  return x.dim() == 3 && x.stride(2) == 1 && (x.size(0) == 1 || x.stride(0) == x.size(1) * x.stride(1));
}

/// [1, C, T, H, W] whose pixels lie one after another, channels innermost.
inline bool is_dense_channels_last(const at::Tensor& x) {
  if (x.dim() != 5 || x.size(0) != 1) return false;
  const int64_t c = x.size(1), w = x.size(4), h = x.size(3);
  return x.stride(1) == 1 && x.stride(4) == c && x.stride(3) == w * c && x.stride(2) == h * w * c;
}

}  // namespace frameshard
