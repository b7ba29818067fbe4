// Linear layers in 8-bit floats (e4m3: 3 bits of mantissa, up to 448): weights are rounded once with a scale
// for each row of outputs, and what comes in at each call with a scale for each row (token), so that the
// largest value of a row becomes 448. Products are summed in float32. Lossy: a value's relative rounding
// error is at most 1/16, that of a product of random rows about 1/27.
#pragma once

#include <ATen/ATen.h>

#include "models/weights.h"

namespace frameshard {

/// Rows in 8-bit floats: row i is values[i] * scale[i].
struct Float8Rows {
  at::Tensor values;  ///< [n, k] float8_e4m3fn
  at::Tensor scale;   ///< [n] float32, above 0
};

/// x [n, k] in any dtype, k at least 1. A row's NaN or Inf makes its scale so too: the
/// product shows it.
Float8Rows quantize_rows(const at::Tensor& x);

/// Replaces the layer's weight [out, in] by 8-bit floats and sets its scale. The former weight is freed where
/// nobody else holds it. A layer whose sizes are no multiples of 16, which GPUs want, stays as it is.
void quantize(Linear& layer);

/// x [..., in] -> [..., out] in the dtype of x, for a layer that quantize() was called for. On a GPU a
/// product of 8-bit floats; on a CPU, where that would only be slower, the same values multiplied in float32
/// (for tests). No gradients.
at::Tensor apply_float8(const Linear& layer, const at::Tensor& x);

/// Throws ExitCode::config where `device` has no products of 8-bit floats with a scale a row: GPUs have
/// them from compute capability 8.9.
void require_float8(const at::Device& device);

}  // namespace frameshard
