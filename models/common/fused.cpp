#include "models/common/fused.h"

#include <c10/core/GradMode.h>

#include "models/common/fused_cpu.h"
#include "models/common/fused_cuda.h"
#include "models/common/fused_layout.h"
#include "models/common/layers.h"
#include "models/common/rope.h"

namespace frameshard {
namespace {

// Whether the CPU loops take this tensor: they know no gradients and no other type.
bool takes_cpu_loops(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && !c10::GradMode::is_enabled();
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
  if (!takes_cpu_loops(x) || !x.is_contiguous()) return unfused::norm_modulate(x, scale, shift, eps);
  const at::Tensor scale_rows = scale.contiguous(), shift_rows = shift.contiguous();
  at::Tensor out = at::empty_like(x);
  cpu::norm_modulate(floats(x), floats(scale_rows), floats(shift_rows), out.data_ptr<float>(),
                     x.size(0) * x.size(1), x.size(1), x.size(2), float(eps));
  return out;
}

at::Tensor rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& rope, double eps) {
  if (at::Tensor out = gpu::rms_norm_rotate(x, weight, heads, rope, eps); out.defined()) return out;
  if (!takes_cpu_loops(x) || !has_row_stride(x)) return unfused::rms_norm_rotate(x, weight, heads, rope, eps);
  const int64_t rows = x.size(0) * x.size(1), d = x.size(2);
  at::Tensor out = at::empty({x.size(0), x.size(1), heads, d / heads}, x.options());
  const at::Tensor turns = rope.defined() ? at::view_as_real(rope).contiguous() : rope;
  cpu::rms_norm_rotate(floats(x), x.stride(1), floats(weight), turns.defined() ? floats(turns) : nullptr,
                       out.data_ptr<float>(), rows, x.size(1), d, heads, float(eps));
  return out;
}

at::Tensor gated_sum(at::Tensor x, const at::Tensor& branch, const at::Tensor& gate) {
  if (gpu::gated_sum(x, branch, gate)) return x;
  if (!takes_cpu_loops(x)) return unfused::gated_sum(x, branch, gate);
  return x.addcmul_(branch, gate);
}

at::Tensor gelu_tanh(at::Tensor x) {
  if (!takes_cpu_loops(x) || !x.is_contiguous()) return at::gelu(x, "tanh");
  cpu::gelu_tanh(x.data_ptr<float>(), x.numel());
  return x;
}

void channel_norm_silu(const at::Tensor& x, const at::Tensor& gamma, at::Tensor out) {
  if (gpu::channel_norm_silu(x, gamma, out)) return;
  if (!takes_cpu_loops(x) || !is_dense_channels_last(x) || !is_dense_channels_last(out)) {
    out.copy_(unfused::channel_norm_silu(x, gamma));
    return;
  }
  cpu::channel_norm_silu(floats(x), floats(gamma), out.data_ptr<float>(), x.numel() / x.size(1), x.size(1));
}

}  // namespace frameshard
