// CUDA kernels of fused.h. They lie in the module that is loaded where a GPU is (core/cuda_module.h), where
// the build found nvcc.
#pragma once

#include <ATen/ATen.h>

#include "models/common/fused_rows.h"

namespace frameshard {

/// Symbol `frameshard_fused_kernels` of the module. Each works on `rows` rows on the current stream of the
/// device, waits for nothing and allocates nothing; 1 where the kernel cannot be started.
struct FusedKernels {
  void (*norm_modulate)(const rows::NormModulate&, rows::Element, int64_t rows, int device);
  void (*rms_norm_rotate)(const rows::RmsNormRotate&, rows::Element, int64_t rows, int device);
  void (*gated_sum)(const rows::GatedSum&, rows::Element, int64_t rows, int device);
  void (*channel_norm_silu)(const rows::ChannelNormSilu&, rows::Element, int64_t rows, int device);
};

/// The operations of fused.h by these kernels, for float32, bfloat16 and float16 where no gradient is wanted.
/// Nothing is done, and the answer undefined or false, for other tensors and where there are no kernels.
namespace gpu {

bool has_kernels();

at::Tensor norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps);
at::Tensor rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& rope, double eps);
/// Into x.
bool gated_sum(at::Tensor& x, const at::Tensor& branch, const at::Tensor& gate);
/// For dense pixels, channels innermost.
bool channel_norm_silu(const at::Tensor& x, const at::Tensor& gamma, at::Tensor& out);

}  // namespace gpu
}  // namespace frameshard
