#include "models/common/attention_kernel.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <mutex>

#include <ATen/Context.h>
#include <c10/core/GradMode.h>

#include "core/cuda_module.h"
#include "models/common/attention_cpu.h"

namespace frameshard {
namespace {

// ATen's attention takes [B, H, S, D].
at::Tensor heads_first(const at::Tensor& x) {
  return x.transpose(1, 2);
}

bool is_half(const at::Tensor& x) {
  return x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16;
}

// FlashAttention's CUDA kernel takes head dims that are multiples of 8; zeros change no score.
at::Tensor padded(const at::Tensor& x) {
  const int64_t missing = (8 - x.size(-1) % 8) % 8;
  return missing == 0 ? x : at::constant_pad_nd(x, {0, missing});
}
double scale(const at::Tensor& q) {
  return 1.0 / std::sqrt(double(q.size(-1)));
}

using Outputs = std::pair<at::Tensor, at::Tensor>;

// CUDA: FlashAttention-2 for 16-bit floats, the memory-efficient kernel for float32.
Outputs forward_cuda(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (is_half(q)) {
    const auto result =
        at::_scaled_dot_product_flash_attention(padded(q), padded(k), padded(v), 0.0, false, false, scale(q));
    return {std::get<0>(result).narrow(-1, 0, q.size(-1)), std::get<1>(result)};
  }
  const auto result = at::_scaled_dot_product_efficient_attention(q, k, v, {}, /*compute_log_sumexp=*/true);
  // Its sums are padded to a multiple of 32 rows.
  return {std::get<0>(result), std::get<1>(result).narrow(-1, 0, q.size(2))};
}

AttentionKernel::Gradients backward_cuda(const at::Tensor& gradient, const at::Tensor& q, const at::Tensor& k,
                                         const at::Tensor& v, const at::Tensor& output,
                                         const at::Tensor& sums) {
  // The dropout state, unused without dropout.
  const at::Tensor state = at::zeros({2}, q.options().dtype(at::kLong)),
                   none = at::zeros({}, state.options());
  if (is_half(q)) {
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_backward(
        padded(gradient), padded(q), padded(k), padded(v), padded(output), sums, {}, {}, q.size(2), k.size(2),
        0.0, false, state, none, scale(q));
    return {dq.narrow(-1, 0, q.size(-1)), dk.narrow(-1, 0, q.size(-1)), dv.narrow(-1, 0, q.size(-1))};
  }
  const int64_t rows = (q.size(2) + 31) / 32 * 32;
  const at::Tensor padded = at::constant_pad_nd(sums, {0, rows - sums.size(-1)}).contiguous();
  const auto [dq, dk, dv, bias] = at::_scaled_dot_product_efficient_attention_backward(
      gradient, q, k, v, at::Tensor(), output, padded, none, none, 0.0, {true, true, true, false});
  return {dq, dk, dv};
}

// cuDNN's kernel is the fastest for 16-bit floats on Hopper and the B200 (9.x and 10.x). Newer LibTorch
// prefers it there by itself; its switch against that counts here too.
bool prefers_cudnn(const at::Device& device) {
  const CudaFunctions* gpu = cuda();
  const int capability = gpu ? gpu->compute_capability(device.index()) : 0;
  return capability >= 90 && capability < 110 && !std::getenv("TORCH_CUDNN_SDPA_DEPRIORITIZED");
}

// Once a process. What cuDNN does not take goes down the rest of the list, which is ATen's own.
void order_kernels(const at::Device& device) {
  static std::once_flag once;
  std::call_once(once, [&] {
    if (!prefers_cudnn(device)) return;
    std::vector<int64_t> order;
    using enum at::SDPBackend;
    for (auto kernel : {cudnn_attention, flash_attention, efficient_attention, math, overrideable}) {
      order.push_back(int64_t(kernel));
    }
    at::globalContext().setSDPPriorityOrder(order);
  });
}

struct KeysAndWeight {
  at::Tensor k, v, weight;  // [B, T, H, D], [1, 1, 1, T]
};

// With a weight and T = 64 modulo 128, cuDNN's backward pass gives NaN where all scores of a query are low
// (https://github.com/pytorch/pytorch/issues/196678). One key more, which counts nothing, avoids it.
KeysAndWeight for_cudnn(const KeysAndWeight& given) {
  const bool harmed = given.weight.defined() && at::GradMode::is_enabled() && given.k.size(1) % 128 == 64;
  if (!harmed) return given;
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  return {at::constant_pad_nd(given.k, {0, 0, 0, 0, 0, 1}), at::constant_pad_nd(given.v, {0, 0, 0, 0, 0, 1}),
          at::constant_pad_nd(given.weight, {0, 1}, nothing)};
}

}  // namespace

at::Tensor attend_weighted(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& weight) {
  if (q.numel() == 0) return q;
  if (q.is_cuda()) order_kernels(q.device());
  if (cpu::takes_attention(q, k, v)) {
    return cpu::attend(q, k, v, weight.defined() ? weight.reshape({-1}) : weight);
  }
  const KeysAndWeight keys = q.is_cuda() ? for_cudnn({k, v, weight}) : KeysAndWeight{k, v, weight};
  c10::optional<at::Tensor> mask;
  if (weight.defined()) {
    // GPU kernels take it for all heads and queries at once.
    mask = q.is_cuda() ? keys.weight.view({1, 1, 1, -1})
                       : weight.expand({q.size(0), q.size(2), q.size(1), k.size(1)});
  }
  return heads_first(
      at::scaled_dot_product_attention(heads_first(q), heads_first(keys.k), heads_first(keys.v), mask));
}

namespace {

class SdpaKernel final : public AttentionKernel {
 public:
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const override {
    return attend_weighted(q, k, v, {});
  }

  std::pair<at::Tensor, at::Tensor> attend_with_sums(const at::Tensor& q, const at::Tensor& k,
                                                     const at::Tensor& v) const override {
    if (cpu::takes_attention(q, k, v)) return cpu::attention(q, k, v, {});
    const at::Tensor qh = heads_first(q), kh = heads_first(k), vh = heads_first(v);
    const auto [output, sums] =
        q.is_cuda() ? forward_cuda(qh, kh, vh) : at::_scaled_dot_product_flash_attention_for_cpu(qh, kh, vh);
    return {heads_first(output), sums};
  }

  Gradients backward(const at::Tensor& output_gradient, const at::Tensor& q, const at::Tensor& k,
                     const at::Tensor& v, const at::Tensor& output, const at::Tensor& sums) const override {
    if (cpu::takes_attention(q, k, v)) {
      return cpu::attention_backward(output_gradient, q, k, v, {}, {output, sums});
    }
    const at::Tensor qh = heads_first(q), kh = heads_first(k), vh = heads_first(v),
                     gh = heads_first(output_gradient), oh = heads_first(output);
    Gradients g;
    if (q.is_cuda()) {
      g = backward_cuda(gh, qh, kh, vh, oh, sums);
    } else {
      std::tie(g.q, g.k, g.v) =
          at::_scaled_dot_product_flash_attention_for_cpu_backward(gh, qh, kh, vh, oh, sums, 0.0, false);
    }
    return {heads_first(g.q), heads_first(g.k), heads_first(g.v)};
  }
};

}  // namespace

const AttentionKernel& sdpa_kernel() {
  static const SdpaKernel kernel;
  return kernel;
}

}  // namespace frameshard
