// Rotary position embedding over a three-dimensional grid (https://arxiv.org/abs/2104.09864).
#pragma once

#include <ATen/ATen.h>

namespace frameshard {

/// Unit complex numbers for every token of a (frames, height, width) grid in that order: [S, head_dim / 2],
/// complex64. Of a head's dims, 2*floor(head_dim/6) go to height and to width each, the rest to time; theta
/// 10000; angles in float64. Grid sizes up to `max_positions`; 78 beyond.
at::Tensor rope_table(at::IntArrayRef grid, int64_t head_dim, int64_t max_positions,
                      const at::Device& device);

/// Rotates neighbouring pairs (even, odd) of the last dim: x [B, S, H, D] by table [S, D/2].
at::Tensor rotate(const at::Tensor& x, const at::Tensor& table);

}  // namespace frameshard
