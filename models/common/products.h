// Products of matrices by whichever of LibTorch's libraries is the faster one here: MKL, which ATen calls in
// float32 on a CPU, keeps to AVX2 on AMD's processors; oneDNN uses AVX-512 where it is (docs/speed.md).
#pragma once

#include <ATen/ATen.h>

namespace frameshard {

/// x [..., in] times weight [out, in] transposed, plus bias [out] where it is defined. Differentiable (first
/// derivatives).
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// a [n, k] times b [k, m], either of any strides. Not differentiable.
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);

/// [..., d] -> [n, d]
inline at::Tensor as_rows(const at::Tensor& x) {
  return x.reshape({-1, x.size(-1)});
}

/// sum [n, m] += scale * a b. Not differentiable.
void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double scale = 1);

/// The same by oneDNN, whichever is faster: for float32 on a CPU, and nothing empty.
namespace onednn {
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);
}  // namespace onednn

}  // namespace frameshard
