// Attention on one device: through ATen's fused kernels, and in float32 on a CPU by loops of ours
// (attention_cpu.h).
#pragma once

#include "parallel/attention.h"

namespace frameshard {

/// scaled_dot_product_attention; its flash kernels where sums or a blockwise backward pass are asked for.
const AttentionKernel& sdpa_kernel();

/// The same with `weight` added to the scores of the keys, [1, 1, 1, T] in the type of q; undefined: nothing.
at::Tensor attend_weighted(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& weight);

}  // namespace frameshard
