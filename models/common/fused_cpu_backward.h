// The gradients of fused_cpu.h's loops, of which each row is read once more from the saved inputs alone. A
// gradient that is not wanted is a null pointer, and costs nothing. Sums over rows are taken in chunks of
// fixed size, which are added in order, so that no result depends on the number of threads.
#pragma once

#include <cstdint>

namespace frameshard::cpu {

/// `batches` times `rows` rows of `d` elements, one after another.
struct RowShape {
  int64_t batches, rows, d;
};

/// Of out = (x - mean) / deviation * (1 + scale) + shift: scale, gscale and gshift [batches, d].
struct NormModulateBackward {
  const float *x, *scale, *gy;
  float *gx, *gscale, *gshift;
  RowShape shape;
  float eps;
};
void norm_modulate_backward(const NormModulateBackward& work);

/// Of out = rotated(x * r * weight), r = 1 / sqrt(mean of squares + eps): row r of x at x + r * stride, with
/// position r % positions in `rope`, as in fused_cpu.h; gy and gx dense, gweight [d].
struct RmsNormRotateBackward {
  const float *x, *weight, *rope, *gy;
  float *gx, *gweight;
  int64_t stride, rows, positions, d, heads;
  float eps;
};
void rms_norm_rotate_backward(const RmsNormRotateBackward& work);

/// Of out = x + branch * gate: gate and ggate [batches, d]. `branch` is read for ggate alone, and `gate` for
/// gbranch. The gradient of x is gy.
struct GatedSumBackward {
  const float *branch, *gate, *gy;
  float *gbranch, *ggate;
  RowShape shape;
};
void gated_sum_backward(const GatedSumBackward& work);

void gelu_tanh_backward(const float* x, const float* gy, float* gx, int64_t count);

}  // namespace frameshard::cpu
