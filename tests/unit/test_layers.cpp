#include <array>
#include <cmath>
#include <complex>

#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/common/attention_kernel.h"
#include "models/common/convolution.h"
#include "models/common/layers.h"
#include "models/common/rope.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::relative_error;

namespace {

const at::Device cpu(at::kCPU);

// The angle of one pair of a head's dims at one position of the grid, by the definition.
double angle(const std::array<int64_t, 3>& position, int64_t pair, int64_t head_dim) {
  const int64_t side = 2 * (head_dim / 6), dims[] = {head_dim - 2 * side, side, side};
  for (size_t axis = 0; axis < 3; ++axis) {
    if (pair < dims[axis] / 2) {
      return double(position[axis]) * std::pow(10000.0, -2.0 * double(pair) / double(dims[axis]));
    }
    pair -= dims[axis] / 2;
  }
  throw std::logic_error("no such pair");
}

at::Tensor random(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype = at::kDouble) {
  return initial_noise(shape, seed).to(dtype);
}

}  // namespace

TEST_CASE("the table of rotations is cos + i sin of each token's angles") {
  for (int64_t head_dim : {12, 16, 128}) {
    const at::Tensor table = rope_table({3, 4, 5}, head_dim, 1024, cpu);
    REQUIRE(table.sizes() == at::IntArrayRef({60, head_dim / 2}));
    REQUIRE(table.scalar_type() == at::kComplexFloat);
    double worst = 0;
    for (int64_t token = 0; token < 60; ++token) {
      for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
        const auto got = table[token][pair].item<c10::complex<float>>();
        const double wanted = angle({token / 20, token / 5 % 4, token % 5}, pair, head_dim);
        worst = std::max(
            {worst, std::abs(got.real() - std::cos(wanted)), std::abs(got.imag() - std::sin(wanted))});
      }
    }
    CHECK(worst < 1e-7);
  }
}

TEST_CASE("angles stay exact far along an axis") {
  const at::Tensor table = rope_table({1024, 1, 1}, 12, 1024, cpu);
  const double wanted = angle({1023, 0, 0}, 1, 12);
  CHECK(std::abs(table[1023][1].item<c10::complex<float>>().real() - std::cos(wanted)) < 1e-7);
}

TEST_CASE("a grid beyond the model's positions is a configuration error") {
  const auto error = caught([] { rope_table({1, 1025, 1}, 12, 1024, cpu); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has("1025 positions"));
  CHECK(error.has("1024"));
}

TEST_CASE("rotate multiplies neighbouring pairs as complex numbers") {
  const int64_t head_dim = 16;
  const at::Tensor x = random({2, 6, 3, head_dim}, 1, at::kFloat);
  const at::Tensor turned = rotate(x, rope_table({1, 2, 3}, head_dim, 8, cpu));
  REQUIRE(turned.sizes() == x.sizes());
  double worst = 0;
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t token = 0; token < 6; ++token) {
      for (int64_t head = 0; head < 3; ++head) {
        for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
          const auto value = [&](const at::Tensor& t, int64_t odd) {
            return t[b][token][head][2 * pair + odd].item<double>();
          };
          const std::complex<double> wanted =
              std::complex<double>(value(x, 0), value(x, 1)) *
              std::polar(1.0, angle({0, token / 3, token % 3}, pair, head_dim));
          worst = std::max({worst, std::abs(value(turned, 0) - wanted.real()),
                            std::abs(value(turned, 1) - wanted.imag())});
        }
      }
    }
  }
  CHECK(worst < 1e-6);
  CHECK(rotate(x.to(at::kBFloat16), rope_table({1, 2, 3}, head_dim, 8, cpu)).scalar_type() == at::kBFloat16);
}

TEST_CASE("patchify puts channels slowest inside a token, unpatchify takes them fastest") {
  const at::Tensor video = at::arange(2 * 3 * 2 * 4 * 6, at::kFloat).view({2, 3, 2, 4, 6});
  const at::Tensor tokens = patchify(video, {1, 2, 2});
  REQUIRE(tokens.sizes() == at::IntArrayRef({2, 2 * 2 * 3, 12}));
  // Token (frame 1, row 1, column 2), channel 2, upper right pixel.
  CHECK(tokens[1][6 + 3 + 2][2 * 4 + 1].item<float>() == video[1][2][1][2][5].item<float>());

  // The same token as the output projection writes it: [pf, ph, pw, C].
  const at::Tensor output = tokens.view({2, 12, 3, 1, 2, 2}).permute({0, 1, 3, 4, 5, 2}).reshape({2, 12, 12});
  CHECK(at::equal(unpatchify(output, {1, 2, 2}, {2, 2, 3}), video));
}

TEST_CASE("patches longer than one frame") {
  const at::Tensor video = random({1, 2, 4, 6, 2}, 2);
  const at::Tensor tokens = patchify(video, {2, 3, 1});
  REQUIRE(tokens.sizes() == at::IntArrayRef({1, 2 * 2 * 2, 12}));
  const at::Tensor output = tokens.view({1, 8, 2, 2, 3, 1}).permute({0, 1, 3, 4, 5, 2}).reshape({1, 8, 12});
  CHECK(at::equal(unpatchify(output, {2, 3, 1}, {2, 2, 2}), video));
}

TEST_CASE("sinusoids of a timestep: cosines, then sines") {
  const at::Tensor got = timestep_sinusoid(at::tensor({0.0, 1.0, 999.0, 138.5}), 64);
  REQUIRE(got.sizes() == at::IntArrayRef({4, 64}));
  CHECK(got.scalar_type() == at::kFloat);
  double worst = 0;
  const double timesteps[] = {0, 1, 999, 138.5};
  for (int64_t row = 0; row < 4; ++row) {
    for (int64_t i = 0; i < 32; ++i) {
      const double angle = timesteps[row] * std::pow(10000.0, -double(i) / 32);
      worst = std::max({worst, std::abs(got[row][i].item<double>() - std::cos(angle)),
                        std::abs(got[row][32 + i].item<double>() - std::sin(angle))});
    }
  }
  CHECK(worst < 2e-4);  // diffusers' angles are float32: 999 is known to 6e-5
}

TEST_CASE("norms take their means in float32") {
  const at::Tensor x = random({2, 5, 24}, 3, at::kFloat) * 30 + 100, weight = random({24}, 4, at::kFloat);
  const at::Tensor wide = x.to(at::kDouble);
  const at::Tensor rms = wide * (wide.square().mean(-1, true) + 1e-6).rsqrt() * weight.to(at::kDouble);
  CHECK(relative_error(rms_norm(x, weight, 1e-6), rms) < 1e-6);
  CHECK(relative_error(rms_norm(x.to(at::kBFloat16), weight.to(at::kBFloat16), 1e-6), rms) < 1e-2);

  const at::Tensor centred = wide - wide.mean(-1, true);
  const at::Tensor normed = centred * (centred.square().mean(-1, true) + 1e-6).rsqrt();
  CHECK(relative_error(layer_norm_float32(x, {}, {}, 1e-6), normed) < 1e-5);
  CHECK(relative_error(layer_norm_float32(x, weight, weight, 1e-6), normed * weight + weight) < 1e-5);
  CHECK(layer_norm_float32(x.to(at::kBFloat16), {}, {}, 1e-6).scalar_type() == at::kFloat);
}

TEST_CASE("attention's sums are the logs of each row's sum of exponentials") {
  const c10::NoGradGuard no_grad;
  for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>(5, 5), {7, 3}, {1, 40}, {33, 70}}) {
    INFO(queries << " queries, " << keys << " keys");
    const at::Tensor q = random({2, queries, 3, 8}, 5), k = random({2, keys, 3, 8}, 6),
                     v = random({2, keys, 3, 8}, 7);
    const auto [output, sums] = sdpa_kernel().attend_with_sums(q, k, v);
    const at::Tensor scores = at::einsum("bqhd,bkhd->bhqk", {q, k}) / std::sqrt(8.0);
    CHECK(relative_error(sums, at::logsumexp(scores, -1)) < 1e-6);
    CHECK(relative_error(output, at::einsum("bhqk,bkhd->bqhd", {at::softmax(scores, -1), v})) < 1e-9);
    CHECK(relative_error(sdpa_kernel().attend(q, k, v), output) < 1e-9);
  }
}

TEST_CASE("attention's backward pass is autograd's") {
  for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>(5, 5), {7, 3}, {1, 40}, {33, 70}}) {
    INFO(queries << " queries, " << keys << " keys");
    const auto leaf = [](const at::Tensor& x) { return x.clone().requires_grad_(true); };
    const at::Tensor q = leaf(random({2, queries, 3, 8}, 5)), k = leaf(random({2, keys, 3, 8}, 6)),
                     v = leaf(random({2, keys, 3, 8}, 7)), gradient = random({2, queries, 3, 8}, 8);
    (sdpa_kernel().attend(q, k, v) * gradient).sum().backward();
    const c10::NoGradGuard no_grad;
    const auto [output, sums] = sdpa_kernel().attend_with_sums(q, k, v);
    const auto got = sdpa_kernel().backward(gradient, q, k, v, output, sums);
    CHECK(relative_error(got.q, q.grad()) < 1e-9);
    CHECK(relative_error(got.k, k.grad()) < 1e-9);
    CHECK(relative_error(got.v, v.grad()) < 1e-9);
  }
}

TEST_CASE("attention over blocks of keys: shares of the whole sum, gradients that add up") {
  const c10::NoGradGuard no_grad;
  const at::Tensor q = random({1, 6, 2, 8}, 9), k = random({1, 11, 2, 8}, 10), v = random({1, 11, 2, 8}, 11),
                   gradient = random({1, 6, 2, 8}, 12);
  const auto [output, sums] = sdpa_kernel().attend_with_sums(q, k, v);
  const auto whole = sdpa_kernel().backward(gradient, q, k, v, output, sums);
  at::Tensor joined = at::zeros_like(output), q_gradient = at::zeros_like(q);
  std::vector<at::Tensor> k_gradients;
  for (const auto& [begin, size] : {std::pair<int64_t, int64_t>(0, 4), {4, 1}, {5, 6}}) {
    const at::Tensor k_block = k.narrow(1, begin, size), v_block = v.narrow(1, begin, size);
    const auto [part, part_sums] = sdpa_kernel().attend_with_sums(q, k_block, v_block);
    joined += part * (part_sums - sums).exp().transpose(1, 2).unsqueeze(-1);
    const auto got = sdpa_kernel().backward(gradient, q, k_block, v_block, output, sums);
    q_gradient += got.q;
    k_gradients.push_back(got.k);
  }
  CHECK(relative_error(joined, output) < 1e-9);
  CHECK(relative_error(q_gradient, whole.q) < 1e-9);
  CHECK(relative_error(at::cat(k_gradients, 1), whole.k) < 1e-9);
}

TEST_CASE("convolutions' gradients are those of ATen in float64") {
  const int64_t batch = GENERATE(1, 2);
  for (const auto& [kernel, padding] :
       {std::pair(std::vector<int64_t>{3, 3, 3}, std::vector<int64_t>{0, 1, 1}), {{3, 1, 1}, {0, 0, 0}}}) {
    const auto leaf = [](const at::Tensor& x) { return x.clone().requires_grad_(true); };
    const at::Tensor x = leaf(channels_last(random({batch, 5, 4, 6, 7}, 1, at::kFloat)));
    const Linear layer{leaf(random({8, 5, kernel[0], kernel[1], kernel[2]}, 2, at::kFloat)),
                       leaf(random({8}, 3, at::kFloat))};
    const at::Tensor wide = leaf(x.detach().to(at::kDouble)),
                     weight = leaf(layer.weight.detach().to(at::kDouble)),
                     bias = leaf(layer.bias.detach().to(at::kDouble));
    const at::Tensor y = convolve(layer, x, 1, padding), wanted = at::conv3d(wide, weight, bias, 1, padding);
    CHECK(relative_error(y, wanted) < 1e-6);
    const at::Tensor gradient = random(wanted.sizes(), 4);
    y.backward(gradient.to(at::kFloat)), wanted.backward(gradient);
    CHECK(relative_error(x.grad(), wide.grad()) < 1e-5);
    CHECK(relative_error(layer.weight.grad(), weight.grad()) < 1e-5);
    CHECK(relative_error(layer.bias.grad(), bias.grad()) < 1e-5);
  }
}
