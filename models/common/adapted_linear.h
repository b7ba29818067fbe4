// A linear layer with low-rank changes (LowRank, models/weights.h), for inference and for training.
#pragma once

#include <functional>

#include <ATen/ATen.h>

#include "models/weights.h"

namespace frameshard {

/// x [n, in] -> [n, out], memory of its own: the layer without its changes, no gradients.
using BaseProduct = std::function<at::Tensor(const at::Tensor& x)>;

/// x [..., in] -> [..., out]: base(x), and for each change y[rows] += scale * (x aᵀ) bᵀ in place. Changes
/// whose dtype is not x's are rounded to it.
///
/// Differentiable, with `base` the product by the layer's weight and bias. The backward pass computes what is
/// asked for and no more: with a frozen weight there is no product as large as it but that for x's own
/// gradient, and none where x needs none. Kept for it: x, x aᵀ, and the weights themselves. Gradients come in
/// the dtype of what they belong to. A layer in 8-bit floats has none: an internal error where one is wanted.
at::Tensor apply_adapted(const Linear& layer, const at::Tensor& x, const BaseProduct& base);

}  // namespace frameshard
