// Elementwise work between the products of a model, in one pass over memory each: on a CPU in float32
// vectorised loops, which have gradients too (fused_gradients.h; channel_norm_silu has none), on a GPU CUDA
// kernels where no gradient is wanted. Else the same formulas in ATen's operations, which are the reference
// that both are tested against.
#pragma once

#include <ATen/ATen.h>

namespace frameshard {

/// LayerNorm over the last dim without weights, in float32, times (1 + scale) plus shift: x [B, S, d]; scale
/// and shift [B, 1, d] float32. Returns x's dtype.
at::Tensor norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps);

/// RMS norm over all heads together (mean of squares in float32), times weight [d], split into heads, and the
/// rotary embedding of rope.h where `rope` [S, head_dim / 2] complex64 is defined: x [B, S, d], rows may be
/// strided -> [B, S, heads, head_dim].
at::Tensor rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& rope, double eps);

/// x + branch * gate in float32: x and branch [B, S, d], gate [B, 1, d] float32. Returns x's dtype; may use
/// the memory of x where gradients are off.
at::Tensor gated_sum(at::Tensor x, const at::Tensor& branch, const at::Tensor& gate);

/// GELU by tanh; may use the memory of x where gradients are off.
at::Tensor gelu_tanh(at::Tensor x);

/// silu(x / |x| * sqrt(C) * gamma), |x| over the C channels of each pixel: x and out [B, C, T, H, W], gamma
/// [C, 1, 1, 1]. Written to `out`, which may be a part of a larger tensor.
void channel_norm_silu(const at::Tensor& x, const at::Tensor& gamma, at::Tensor out);

/// The same formulas in ATen's operations alone.
namespace unfused {
at::Tensor norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps);
at::Tensor rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& rope, double eps);
at::Tensor gated_sum(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& gate);
at::Tensor channel_norm_silu(const at::Tensor& x, const at::Tensor& gamma);
}  // namespace unfused

}  // namespace frameshard
