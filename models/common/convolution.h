// Convolutions through the fastest of ATen's paths for where their input lies.
#pragma once

#include <ATen/ATen.h>

#include "models/weights.h"

namespace frameshard {

/// layer over x, [B, C, H, W] or [B, C, T, H, W] by the weight's dims; stride and padding a dim each, or one
/// number for all. In float32 on a CPU by oneDNN, which ATen takes for two dims alone (3-D: 13 times as fast
/// on AMD Zen 3), and quickest where channels are the innermost dim; the result has its input's memory
/// format. Differentiable.
at::Tensor convolve(const Linear& layer, const at::Tensor& x, at::IntArrayRef stride,
                    at::IntArrayRef padding);

/// x with channels as the innermost dim in memory, the form in which convolutions and their neighbours are
/// fastest.
at::Tensor channels_last(const at::Tensor& x);

/// An empty [B, C, T, H, W] of that form.
at::Tensor empty_channels_last(at::IntArrayRef shape, const at::TensorOptions& options);

}  // namespace frameshard
