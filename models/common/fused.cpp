#include "models/common/fused.h"

#include <c10/core/GradMode.h>

#include "models/common/fused_cpu.h"
#include "models/common/fused_cuda.h"
#include "models/common/fused_gradients.h"
#include "models/common/fused_layout.h"
#include "models/common/layers.h"
#include "models/common/rope.h"

namespace frameshard {
namespace {

// Whether the CPU loops take these: they know no other type.
template <class... Tensors>
bool takes_cpu_loops(const Tensors&... tensors) {
  return ((tensors.is_cpu() && tensors.scalar_type() == at::kFloat) && ...);
}

// Whether `row` is [B, 1, d] to x [B, S, d], as the loops read it.
bool is_row_a_batch(const at::Tensor& row, const at::Tensor& x) {
  return row.sizes() == at::IntArrayRef{x.size(0), 1, x.size(2)};
}

const float* floats(const at::Tensor& x) {
  return x.const_data_ptr<float>();
}

}  // namespace

at::Tensor unfused::norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                                  double eps) {
  return (layer_norm_float32(x, {}, {}, eps) * (1 + scale) + shift).to(x.scalar_type());
}

at::Tensor unfused::rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                                    const at::Tensor& rope, double eps) {
  const at::Tensor normed = rms_norm(x, weight, eps).unflatten(-1, {heads, x.size(-1) / heads});
  return rope.defined() ? rotate(normed, rope) : normed;
}

at::Tensor unfused::gated_sum(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& gate) {
  return (x.to(at::kFloat) + branch.to(at::kFloat) * gate).to(x.scalar_type());
}

at::Tensor unfused::channel_norm_silu(const at::Tensor& x, const at::Tensor& gamma) {
  return at::silu(channel_norm(x, gamma));
}

at::Tensor norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps) {
  if (at::Tensor out = gpu::norm_modulate(x, scale, shift, eps); out.defined()) return out;
  if (!takes_cpu_loops(x, scale, shift) || !x.is_contiguous() || !is_row_a_batch(scale, x) ||
      !is_row_a_batch(shift, x)) {
    return unfused::norm_modulate(x, scale, shift, eps);
  }
  return cpu::norm_modulate(x, scale, shift, eps);
}

at::Tensor rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& rope, double eps) {
  if (at::Tensor out = gpu::rms_norm_rotate(x, weight, heads, rope, eps); out.defined()) return out;
  const bool by_loops = takes_cpu_loops(x, weight) && has_row_stride(x);
  return by_loops ? cpu::rms_norm_rotate(x, weight, heads, rope, eps)
                  : unfused::rms_norm_rotate(x, weight, heads, rope, eps);
}

at::Tensor gated_sum(at::Tensor x, const at::Tensor& branch, const at::Tensor& gate) {
  if (gpu::gated_sum(x, branch, gate)) return x;
  if (!takes_cpu_loops(x, branch, gate)) return unfused::gated_sum(x, branch, gate);
  if (!c10::GradMode::is_enabled()) return x.addcmul_(branch, gate);
  if (!branch.is_contiguous() || branch.sizes() != x.sizes() || !is_row_a_batch(gate, x)) {
    return unfused::gated_sum(x, branch, gate);
  }
  return cpu::gated_sum(x, branch, gate);
}

at::Tensor gelu_tanh(at::Tensor x) {
  if (!takes_cpu_loops(x) || !x.is_contiguous()) return at::gelu(x, "tanh");
  if (c10::GradMode::is_enabled()) return cpu::gelu_tanh(x);
  cpu::gelu_tanh(floats(x), x.data_ptr<float>(), x.numel());
  return x;
}

void channel_norm_silu(const at::Tensor& x, const at::Tensor& gamma, at::Tensor out) {
  if (gpu::channel_norm_silu(x, gamma, out)) return;
  const bool dense = is_dense_channels_last(x) && is_dense_channels_last(out);
  if (c10::GradMode::is_enabled() || !takes_cpu_loops(x, gamma) || !dense) {
    out.copy_(unfused::channel_norm_silu(x, gamma));
    return;
  }
  cpu::channel_norm_silu(floats(x), floats(gamma), out.data_ptr<float>(), x.numel() / x.size(1), x.size(1));
}

}  // namespace frameshard
