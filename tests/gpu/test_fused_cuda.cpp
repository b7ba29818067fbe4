// The CUDA kernels of fused.h against ATen's operations, and what else of a block is fused on a GPU.
#include <cmath>

#include <ATen/Context.h>
#include <c10/core/GradMode.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "models/common/attention_kernel.h"
#include "models/common/convolution.h"
#include "models/common/fused.h"
#include "models/common/fused_cuda.h"
#include "models/common/layers.h"
#include "models/common/rope.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

const at::Device gpu_device(at::kCUDA, 0);

at::Tensor random(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return (at::randn(shape) + 0.5).to(gpu_device, dtype);
}

at::Tensor wide(const at::Tensor& x) {
  return x.to(at::kFloat);
}

// The wanted result is computed in float32 from the same rounded input, so that only the last rounding
// differs.
void check_close(const at::Tensor& got, const at::Tensor& wanted) {
  REQUIRE(got.defined());
  REQUIRE(got.sizes() == wanted.sizes());
  const double unit = got.scalar_type() == at::kFloat ? 5e-6 : got.scalar_type() == at::kHalf ? 1e-3 : 8e-3;
  CHECK(at::allclose(wide(got), wanted, /*rtol=*/unit, /*atol=*/4 * unit));
}

bool lacks_kernels() {
  if (gpu::has_kernels()) return false;
  WARN("SKIPPED: this build has no CUDA kernels: nvcc was not found when it was configured");
  return true;
}

}  // namespace

TEST_CASE("kernels of norm and modulation") {
  if (lacks_kernels()) return;
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  // Of a part of a warp, of a warp and of a block a row; and sizes that fill no pack.
  const int64_t d = GENERATE(1, 7, 32, 100, 257, 1536, 2047, 5120);
  const int64_t rows = GENERATE(1, 37);
  const at::Tensor x = random({2, rows, d}, dtype);
  const auto parts = random({2, 6, d}).chunk(6, 1);
  check_close(gpu::norm_modulate(x, parts[1], parts[4], 1e-6),
              unfused::norm_modulate(wide(x), parts[1], parts[4], 1e-6));
  const at::Tensor strided = random({1, rows, 3 * d}, dtype).narrow(2, d, d), one = random({1, 1, d});
  check_close(gpu::norm_modulate(strided, one, one, 1e-6),
              unfused::norm_modulate(wide(strided), one, one, 1e-6));
}

TEST_CASE("kernels of RMS norm and rotation") {
  if (lacks_kernels()) return;
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  const auto [heads, head_dim] = GENERATE(std::pair(1, 2), std::pair(3, 6), std::pair(5, 32),
                                          std::pair(12, 128), std::pair(40, 128), std::pair(331, 6));
  const int64_t d = heads * head_dim;
  const at::Tensor rope = rope_table({3, 3, 5}, head_dim, 16, gpu_device), weight = random({d}, dtype);
  for (const at::Tensor& x : random({2, 45, 3 * d}, dtype).chunk(3, -1)) {
    for (const at::Tensor& turns : {rope, at::Tensor()}) {
      check_close(gpu::rms_norm_rotate(x, weight, heads, turns, 1e-6),
                  unfused::rms_norm_rotate(wide(x), wide(weight), heads, turns, 1e-6));
    }
  }
}

TEST_CASE("kernels of a gated sum") {
  if (lacks_kernels()) return;
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  const int64_t d = GENERATE(1, 21, 64, 1536, 5120, 5121);
  at::Tensor x = random({2, 19, d}, dtype);
  const at::Tensor branch = random({2, 19, d}, dtype), gate = random({2, 6, d}).narrow(1, 2, 1);
  const at::Tensor wanted = unfused::gated_sum(wide(x), wide(branch), gate);
  REQUIRE(gpu::gated_sum(x, branch, gate));
  check_close(x, wanted);
}

TEST_CASE("kernels of channel norm and SiLU") {
  if (lacks_kernels()) return;
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  const int64_t channels = GENERATE(3, 16, 20, 96, 192, 384);
  const at::Tensor x = channels_last(random({1, channels, 2, 7, 5}, dtype)),
                   gamma = random({channels, 1, 1, 1}, dtype);
  x.select(4, 0).zero_();  // pixels without a signal
  at::Tensor padded = empty_channels_last({1, channels, 4, 7, 5}, x.options()).fill_(7);
  at::Tensor out = padded.narrow(2, 2, 2);
  REQUIRE(gpu::channel_norm_silu(x, gamma, out));
  check_close(out, unfused::channel_norm_silu(wide(x), wide(gamma)));
  CHECK((padded.narrow(2, 0, 2) == 7).all().item<bool>());
}

TEST_CASE("kernels keep NaN, and take no tensor that they do not know") {
  if (lacks_kernels()) return;
  const c10::NoGradGuard no_grad;
  const at::Tensor zero = at::zeros({1, 1, 20}, random({1}).options()),
                   x = at::full({1, 3, 20}, NAN, zero.options());
  CHECK(at::isnan(gpu::norm_modulate(x, zero, zero, 1e-6)).all().item<bool>());
  CHECK(at::isnan(gpu::rms_norm_rotate(x, zero.flatten() + 1, 4, {}, 1e-6)).all().item<bool>());
  CHECK_FALSE(gpu::norm_modulate(x.to(at::kDouble), zero, zero, 1e-6).defined());
  CHECK_FALSE(gpu::norm_modulate(x.transpose(1, 2), zero, zero, 1e-6).defined());
  CHECK_FALSE(gpu::rms_norm_rotate(x, zero.flatten().to(at::kHalf), 4, {}, 1e-6).defined());
  const c10::AutoGradMode grad(true);
  CHECK_FALSE(gpu::norm_modulate(x, zero, zero, 1e-6).defined());
  CHECK(norm_modulate(x.detach().clone().requires_grad_(), zero, zero, 1e-6).requires_grad());
}

TEST_CASE("kernels wait for the work before them on their stream, and need no rows") {
  if (lacks_kernels()) return;
  const c10::NoGradGuard no_grad;
  const at::Tensor gate = at::ones({1, 1, 1024}, random({1}).options());
  at::Tensor x = at::zeros({1, 4096, 1024}, gate.options());
  for (int i = 0; i < 20; ++i) {
    const at::Tensor next = x + 1;
    x = gated_sum(next, next.clone(), gate);
  }
  CHECK((x == std::exp2(21.0) - 2).all().item<bool>());
  const at::Tensor none = random({1, 0, 1024});
  CHECK(gpu::norm_modulate(none, gate, gate, 1e-6).sizes() == none.sizes());
}

TEST_CASE("a product with GELU in its epilogue") {
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const int64_t inputs = GENERATE(64, 96), outputs = GENERATE(40, 256);
  const Linear layer{random({outputs, inputs}, dtype) / 8, random({outputs}, dtype)};
  const at::Tensor x = random({2, 33, inputs}, dtype);
  const at::Tensor wanted = at::gelu(at::linear(wide(x), wide(layer.weight), wide(layer.bias)), "tanh");
  const at::Tensor got = apply_gelu(layer, x);
  REQUIRE(got.sizes() == wanted.sizes());
  const double error = ((wide(got) - wanted).norm() / wanted.norm()).item<double>();
  CHECK(error < (dtype == at::kFloat ? 1e-4 : 1e-2));
}

TEST_CASE("attention prefers cuDNN on Hopper, and gives what float32 gives") {
  const c10::NoGradGuard no_grad;
  const auto q = random({1, 300, 4, 128}, at::kBFloat16), k = random({1, 170, 4, 128}, at::kBFloat16),
             v = random({1, 170, 4, 128}, at::kBFloat16);
  const at::Tensor got = sdpa_kernel().attend(q, k, v);
  const at::Tensor wanted = sdpa_kernel().attend(wide(q), wide(k), wide(v));
  CHECK(((wide(got) - wanted).norm() / wanted.norm()).item<double>() < 1e-2);
  if (cuda()->compute_capability(0) / 10 == 9) {
    CHECK(at::globalContext().sDPPriorityOrder()[0] == at::SDPBackend::cudnn_attention);
  }
}
