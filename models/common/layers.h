// Small layers that several models share.
#pragma once

#include <ATen/ATen.h>

#include "models/weights.h"

namespace frameshard {

/// x [..., in] -> [..., out] (common/products.h), with the layer's low-rank changes
/// (common/adapted_linear.h).
at::Tensor apply(const Linear& layer, const at::Tensor& x);

/// GELU (by tanh) of the layer's output; on a GPU within the product, where no gradient is wanted.
at::Tensor apply_gelu(const Linear& layer, const at::Tensor& x);

/// x / rms(x) * weight over the last dim; the mean of squares in float32.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// x / |x| over the channels of [B, C, ...], in float32, times sqrt(C) and gamma.
at::Tensor channel_norm(const at::Tensor& x, const at::Tensor& gamma);

/// LayerNorm over the last dim in float32; without weight and bias where they are undefined.
at::Tensor layer_norm_float32(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                              double eps);

/// Sinusoids of a timestep [B] -> [B, dim], cosines first, wavelengths up to 10000 (diffusers' Timesteps with
/// flip_sin_to_cos and no shift).
at::Tensor timestep_sinusoid(const at::Tensor& timestep, int64_t dim);

/// [B, C, F, h, w] -> [B, F/pf * h/ph * w/pw, C*pf*ph*pw], channels slowest inside a token; sizes must
/// divide.
at::Tensor patchify(const at::Tensor& video, at::IntArrayRef patch);
/// [B, S, pf*ph*pw*C] with channels fastest inside a token -> [B, C, F, h, w].
at::Tensor unpatchify(const at::Tensor& tokens, at::IntArrayRef patch, at::IntArrayRef grid);

}  // namespace frameshard
