// Attention in float32 on a CPU, forward and backward, in blocks that stay in the cache. ATen's kernel does
// its products in MKL, which keeps to AVX2 on AMD's processors, and takes them in smaller pieces
// (docs/speed.md).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "parallel/attention.h"

namespace frameshard::cpu {

/// Names of the loops that this processor can run, the fastest first: "avx512", "avx2", "plain".
std::vector<std::string> attention_loops();

/// Whether these loops take the tensors: float32 on the CPU, with elements of a head side by side.
bool takes_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

/// softmax(q kᵀ / sqrt(D) + bias) v: q [B, S, H, D], k and v [B, T, H, D]; bias [T], finite, or undefined.
/// Returns the output, and the log of each row's sum of exponentials, [B, H, S]. `loops`: of
/// attention_loops(); empty: the first. A row's result depends on neither the number of threads nor other
/// heads.
std::pair<at::Tensor, at::Tensor> attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                            const at::Tensor& bias, const std::string& loops = "");

/// As AttentionKernel::backward, with the bias of `attention`, which has no gradient.
AttentionKernel::Gradients attention_backward(const at::Tensor& output_gradient, const at::Tensor& q,
                                              const at::Tensor& k, const at::Tensor& v,
                                              const at::Tensor& bias,
                                              const std::pair<at::Tensor, at::Tensor>& output_and_sums,
                                              const std::string& loops = "");

/// Differentiable, but for the bias.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias);

}  // namespace frameshard::cpu
