#include "models/common/fused_cuda.h"

#include <c10/core/GradMode.h>

#include "core/cuda_module.h"
#include "models/common/fused_layout.h"

namespace frameshard::gpu {
namespace {

const FusedKernels* kernels() {
  static const auto* table = static_cast<const FusedKernels*>(cuda_symbol("frameshard_fused_kernels"));
  return table;
}

// What the kernels count elements of a row with, with room for a last step.
constexpr int64_t longest_row = int64_t(1) << 30;

bool takes(const at::Tensor& x, int64_t row) {
  const bool known =
      x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf;
  return x.is_cuda() && known && row > 0 && row <= longest_row && !c10::GradMode::is_enabled() && kernels();
}

rows::Element element(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat      ? rows::Element::float32
         : x.scalar_type() == at::kBFloat16 ? rows::Element::bfloat16
                                            : rows::Element::float16;
}

bool is_like(const at::Tensor& other, const at::Tensor& x) {
  return other.scalar_type() == x.scalar_type() && other.device() == x.device();
}

// Scale, shift or gate: [B, 1, d] or [1, 1, d], float32, each batch's elements one after another.
bool is_of_batches(const at::Tensor& values, const at::Tensor& x) {
  return values.dim() == 3 && values.scalar_type() == at::kFloat && values.device() == x.device() &&
         (values.size(0) == x.size(0) || values.size(0) == 1) && values.size(1) == 1 &&
         values.size(2) == x.size(2) && values.stride(2) == 1;
}
int64_t batch_stride(const at::Tensor& values) {
  return values.size(0) == 1 ? 0 : values.stride(0);
}

bool is_rope_of(const at::Tensor& rope, const at::Tensor& x, int64_t head_dim) {
  return rope.scalar_type() == at::kComplexFloat && rope.device() == x.device() && head_dim % 2 == 0 &&
         rope.sizes() == at::IntArrayRef({x.size(1), head_dim / 2}) && rope.is_contiguous();
}

const float* floats(const at::Tensor& x) {
  return x.const_data_ptr<float>();
}

}  // namespace

bool has_kernels() {
  return kernels() != nullptr;
}

at::Tensor norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps) {
  if (!has_row_stride(x) || !takes(x, x.size(2)) || !is_of_batches(scale, x) || !is_of_batches(shift, x)) {
    return {};
  }
  at::Tensor out = at::empty(x.sizes(), x.options());
  const rows::NormModulate operation{.x = x.const_data_ptr(),
                                     .out = out.data_ptr(),
                                     .scale = floats(scale),
                                     .shift = floats(shift),
                                     .stride = x.stride(1),
                                     .scale_stride = batch_stride(scale),
                                     .shift_stride = batch_stride(shift),
                                     .rows_per_batch = x.size(1),
                                     .d = int(x.size(2)),
                                     .eps = float(eps)};
  kernels()->norm_modulate(operation, element(x), x.size(0) * x.size(1), int(x.get_device()));
  return out;
}

at::Tensor rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& rope, double eps) {
  if (!has_row_stride(x) || !takes(x, x.size(2)) || !is_like(weight, x) || !weight.is_contiguous() ||
      weight.numel() != x.size(2) || x.size(2) % heads != 0) {
    return {};
  }
  const int64_t head_dim = x.size(2) / heads;
  if (rope.defined() && !is_rope_of(rope, x, head_dim)) return {};
  at::Tensor out = at::empty({x.size(0), x.size(1), heads, head_dim}, x.options());
  const rows::RmsNormRotate operation{
      .x = x.const_data_ptr(),
      .weight = weight.const_data_ptr(),
      .out = out.data_ptr(),
      .rope = rope.defined() ? static_cast<const float*>(rope.const_data_ptr()) : nullptr,
      .stride = x.stride(1),
      .positions = x.size(1),
      .d = int(x.size(2)),
      .head_dim = int(head_dim),
      .eps = float(eps)};
  kernels()->rms_norm_rotate(operation, element(x), x.size(0) * x.size(1), int(x.get_device()));
  return out;
}

bool gated_sum(at::Tensor& x, const at::Tensor& branch, const at::Tensor& gate) {
  if (x.dim() != 3 || !takes(x, x.size(2)) || !x.is_contiguous() || !is_like(branch, x) ||
      !branch.is_contiguous() || branch.sizes() != x.sizes() || !is_of_batches(gate, x)) {
    return false;
  }
  const rows::GatedSum operation{.x = x.data_ptr(),
                                 .branch = branch.const_data_ptr(),
                                 .gate = floats(gate),
                                 .gate_stride = batch_stride(gate),
                                 .rows_per_batch = x.size(1),
                                 .d = int(x.size(2))};
  kernels()->gated_sum(operation, element(x), x.size(0) * x.size(1), int(x.get_device()));
  return true;
}

bool channel_norm_silu(const at::Tensor& x, const at::Tensor& gamma, at::Tensor& out) {
  if (!is_dense_channels_last(x) || !is_dense_channels_last(out) || !takes(x, x.size(1)) ||
      !is_like(out, x) || out.sizes() != x.sizes() || !is_like(gamma, x) || !gamma.is_contiguous() ||
      gamma.numel() != x.size(1)) {
    return false;
  }
  const rows::ChannelNormSilu operation{
      .x = x.const_data_ptr(), .gamma = gamma.const_data_ptr(), .out = out.data_ptr(), .d = int(x.size(1))};
  kernels()->channel_norm_silu(operation, element(x), x.numel() / x.size(1), int(x.get_device()));
  return true;
}

}  // namespace frameshard::gpu
