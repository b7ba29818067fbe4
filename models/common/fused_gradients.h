// The loops of fused_cpu.h over tensors, with gradients by those of fused_cpu_backward.h. Kept for a backward
// pass: inputs alone, and of them what its gradients need. First derivatives only: to autograd, the gradients
// are constants.
#pragma once

#include <ATen/ATen.h>

namespace frameshard::cpu {

/// As in fused.h, for tensors on the CPU, all in float32; none is overwritten. x and branch are contiguous;
/// rope has no gradient.
at::Tensor norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps);
/// x with has_row_stride.
at::Tensor rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& rope, double eps);
at::Tensor gated_sum(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& gate);
at::Tensor gelu_tanh(const at::Tensor& x);

}  // namespace frameshard::cpu
