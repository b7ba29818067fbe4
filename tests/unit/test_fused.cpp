// The fused loops against the same formulas in ATen's operations.
#include <limits>

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/common/convolution.h"
#include "models/common/fused.h"
#include "models/common/rope.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

double distance(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a - b).abs().max().item<double>();
}

at::Tensor random(at::IntArrayRef shape) {
  static uint64_t seed = 0;
  return initial_noise(shape, ++seed) * 2 + 0.5;
}

// Channels innermost, as the VAE keeps its activations.
at::Tensor random_video(at::IntArrayRef shape) {
  return channels_last(random(shape));
}

}  // namespace

TEST_CASE("norm and modulation") {
  const c10::NoGradGuard no_grad;
  const int64_t d = GENERATE(1, 5, 32, 100, 512);
  const at::Tensor x = random({2, 7, d}), scale = random({2, 1, d}), shift = random({2, 1, d});
  CHECK(distance(norm_modulate(x, scale, shift, 1e-6), unfused::norm_modulate(x, scale, shift, 1e-6)) < 2e-5);
  // Parts of a larger tensor, as the modulation comes.
  const auto parts = random({2, 6, d}).chunk(6, 1);
  CHECK(distance(norm_modulate(x, parts[2], parts[5], 1e-6),
                 unfused::norm_modulate(x, parts[2], parts[5], 1e-6)) < 2e-5);
}

TEST_CASE("RMS norm and rotation") {
  const c10::NoGradGuard no_grad;
  const auto [heads, head_dim] =
      GENERATE(std::pair(1, 2), std::pair(3, 6), std::pair(8, 32), std::pair(2, 128));
  const int64_t d = heads * head_dim;
  const std::vector<int64_t> grid{2, 3, 2};
  const at::Tensor rope = rope_table(grid, head_dim, 16, at::kCPU), weight = random({d});
  const at::Tensor all = random({2, 12, 3 * d});
  for (const at::Tensor& x : all.chunk(3, -1)) {
    CHECK(distance(rms_norm_rotate(x, weight, heads, rope, 1e-6),
                   unfused::rms_norm_rotate(x, weight, heads, rope, 1e-6)) < 2e-5);
    CHECK(distance(rms_norm_rotate(x, weight, heads, {}, 1e-6),
                   unfused::rms_norm_rotate(x, weight, heads, {}, 1e-6)) < 2e-5);
  }
  const at::Tensor turned = all.transpose(0, 1).narrow(2, 0, d);  // rows at no one distance
  CHECK(distance(rms_norm_rotate(turned, weight, heads, {}, 1e-6),
                 unfused::rms_norm_rotate(turned, weight, heads, {}, 1e-6)) < 2e-5);
}

TEST_CASE("gated sum and GELU") {
  const c10::NoGradGuard no_grad;
  const at::Tensor x = random({2, 9, 21}), branch = random({2, 9, 21}), gate = random({2, 1, 21});
  CHECK(distance(gated_sum(x.clone(), branch, gate), unfused::gated_sum(x, branch, gate)) < 1e-5);
  const at::Tensor wide = at::cat({random({1000}) * 3, at::linspace(-200, 200, 1001)});
  const at::Tensor wanted = at::gelu(wide.to(at::kDouble), "tanh").to(at::kFloat);
  CHECK(at::allclose(gelu_tanh(wide.clone()), wanted, 1e-5, 1e-6));
}

TEST_CASE("channel norm and SiLU") {
  const c10::NoGradGuard no_grad;
  const int64_t channels = GENERATE(1, 3, 16, 20, 96);
  const at::Tensor x = random_video({1, channels, 2, 3, 5}), gamma = random({channels, 1, 1, 1});
  const at::Tensor wanted = unfused::channel_norm_silu(x, gamma);
  at::Tensor padded = empty_channels_last({1, channels, 4, 3, 5}, x.options()).fill_(7);
  channel_norm_silu(x, gamma, padded.narrow(2, 2, 2));
  CHECK(distance(padded.narrow(2, 2, 2), wanted) < 2e-5);
  CHECK((padded.narrow(2, 0, 2) == 7).all().item<bool>());
  // Any other layout goes through ATen.
  at::Tensor plain = at::empty(x.sizes());
  channel_norm_silu(x.contiguous(), gamma, plain);
  CHECK(distance(plain, wanted) < 2e-5);
}

TEST_CASE("pixels without a signal, and values beyond the exponential's range") {
  const c10::NoGradGuard no_grad;
  at::Tensor out = empty_channels_last({1, 8, 1, 1, 2}, at::kFloat);
  channel_norm_silu(channels_last(at::zeros({1, 8, 1, 1, 2})), at::ones({8, 1, 1, 1}), out);
  CHECK((out == 0).all().item<bool>());
  CHECK(distance(gelu_tanh(at::tensor({-1e4F, 1e4F, 0.0F})), at::tensor({0.0F, 1e4F, 0.0F})) == 0);
}

TEST_CASE("NaN is not lost") {
  const c10::NoGradGuard no_grad;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(at::isnan(gelu_tanh(at::full({19}, nan))).all().item<bool>());
  const at::Tensor row = at::full({1, 1, 19}, nan), zero = at::zeros({1, 1, 19});
  CHECK(at::isnan(norm_modulate(row, zero, zero, 1e-6)).all().item<bool>());
  CHECK(at::isnan(rms_norm_rotate(row, at::ones({19}), 1, {}, 1e-6)).all().item<bool>());
  at::Tensor out = empty_channels_last({1, 8, 1, 1, 2}, at::kFloat);
  channel_norm_silu(channels_last(at::full({1, 8, 1, 1, 2}, nan)), at::ones({8, 1, 1, 1}), out);
  CHECK(at::isnan(out).all().item<bool>());
}

TEST_CASE("the same bits with any number of threads") {
  const c10::NoGradGuard no_grad;
  const at::Tensor x = random({1, 999, 64}), zero = random({1, 1, 64}), values = random({100001});
  auto all = [&] {
    return at::cat({norm_modulate(x, zero, zero, 1e-6).flatten(), gelu_tanh(values.clone()),
                    rms_norm_rotate(x, at::ones({64}), 4, {}, 1e-6).flatten()});
  };
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = all();
  at::set_num_threads(3);
  const at::Tensor three = all();
  at::set_num_threads(before);
  CHECK(at::equal(one, three));
}

TEST_CASE("gradients are those of ATen's operations") {
  const at::Tensor x = random({1, 4, 8}).requires_grad_(), scale = random({1, 1, 8}),
                   shift = random({1, 1, 8});
  const at::Tensor out = norm_modulate(x, scale, shift, 1e-6) + gelu_tanh(x * 2) + gated_sum(x * 1, x, scale);
  CHECK(out.requires_grad());
}

TEST_CASE("convolutions take any stride and padding") {
  const c10::NoGradGuard no_grad;
  const Linear cube{random({4, 3, 3, 3, 3}), random({4})}, square{random({4, 3, 3, 3}), random({4})};
  const at::Tensor video = random_video({1, 3, 5, 6, 7}), frame = random({2, 3, 8, 9});
  CHECK(distance(convolve(cube, video, 1, {0, 1, 1}),
                 at::conv3d(video, cube.weight, cube.bias, 1, at::IntArrayRef{0, 1, 1})) < 1e-3);
  CHECK(distance(convolve(cube, video, {2, 1, 1}, 0),
                 at::conv3d(video, cube.weight, cube.bias, at::IntArrayRef{2, 1, 1})) < 1e-3);
  CHECK(distance(convolve(square, frame, 2, 1), at::conv2d(frame, square.weight, square.bias, 2, 1)) < 1e-3);
  CHECK(convolve(cube, video, 1, 1).is_contiguous(at::MemoryFormat::ChannelsLast3d));
}
