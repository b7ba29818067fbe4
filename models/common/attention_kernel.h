// Attention on one device through ATen's fused kernels.
#pragma once

#include "parallel/attention.h"

namespace frameshard {

/// scaled_dot_product_attention; its flash kernels where sums or a blockwise backward pass are asked for.
const AttentionKernel& sdpa_kernel();

}  // namespace frameshard
