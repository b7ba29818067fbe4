// Layers with low-rank changes: what they compute, and their gradients.
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/rng.h"
#include "models/common/float8.h"
#include "models/common/layers.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::relative_error;

namespace {

constexpr int64_t in = 7, out = 11;

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return initial_noise(shape, seed).to(at::kDouble);
}

// Two changes of part of the outputs each, which overlap, and one of all.
Linear adapted_layer() {
  Linear layer{random({out, in}, 1), random({out}, 2)};
  layer.adapters = {{random({2, in}, 3), random({6, 2}, 4), 0.5, 0},
                    {random({3, in}, 5), random({5, 3}, 6), -1.5, 4},
                    {random({1, in}, 7), random({out, 1}, 8), 2.0, 0}};
  return layer;
}

// The definition, in differentiable operations of ATen.
at::Tensor by_definition(const Linear& layer, const at::Tensor& x) {
  at::Tensor y = at::linear(x, layer.weight, layer.bias);
  for (const LowRank& change : layer.adapters) {
    const at::Tensor part = x.matmul(change.a.t()).matmul(change.b.t()) * change.scale;
    y = y + at::constant_pad_nd(part, {change.first_row, out - change.first_row - part.size(-1)});
  }
  return y;
}

// The layer's tensors, which all are to have gradients.
std::vector<at::Tensor> leaves(Linear& layer) {
  std::vector<at::Tensor> all{layer.weight, layer.bias};
  for (LowRank& change : layer.adapters) all.insert(all.end(), {change.a, change.b});
  for (at::Tensor& each : all) each.requires_grad_();
  return all;
}

// x of several layouts: plain, rows apart in memory, and transposed.
std::vector<at::Tensor> inputs() {
  return {random({2, 3, in}, 11), random({2, 3, 2 * in}, 12).narrow(-1, 3, in),
          random({in, 3, 2}, 13).permute({2, 1, 0})};
}

// Products of matrices, and those that add to one, while `action` runs.
template <class Action>
int products_in(const Action& action) {
  static int products;
  products = 0;
  const auto handle =
      at::addGlobalCallback(at::RecordFunctionCallback([](const at::RecordFunction& function)
                                                           -> std::unique_ptr<at::ObserverContext> {
                              const std::string name = function.name();
                              if (name == "aten::mm" || name == "aten::addmm" || name == "aten::addmm_")
                                ++products;
                              return nullptr;
                            }).scopes({at::RecordScope::FUNCTION}));
  action();
  at::removeCallback(handle);
  return products;
}

void backward(const at::Tensor& y) {
  torch::autograd::backward({y.sum()}, {});
}

}  // namespace

TEST_CASE("a layer's low-rank changes are added to their outputs") {
  const Linear layer = adapted_layer();
  for (const at::Tensor& x : inputs()) {
    const at::Tensor wanted = by_definition(layer, x);
    CHECK(relative_error(apply(layer, x), wanted) < 1e-14);
    const c10::NoGradGuard no_grad;
    const at::Tensor got = apply(layer, x);
    CHECK(got.sizes() == at::IntArrayRef({2, 3, out}));
    CHECK(relative_error(got, wanted) < 1e-14);
    CHECK(relative_error(apply_gelu(layer, x), at::gelu(wanted, "tanh")) < 1e-14);
  }
  CHECK(apply(layer, at::zeros({1, 0, in}, at::kDouble)).sizes() == at::IntArrayRef({1, 0, out}));
}

TEST_CASE("gradients of an adapted layer equal those of its definition") {
  for (const at::Tensor& given : inputs()) {
    const at::Tensor x = given.detach().requires_grad_();
    Linear layer = adapted_layer();
    std::vector<at::Tensor> all = leaves(layer);
    all.push_back(x);
    const at::Tensor weights = random({2, 3, out}, 21);
    const auto wanted = torch::autograd::grad({(by_definition(layer, x) * weights).sum()}, all);
    const auto got = torch::autograd::grad({(apply(layer, x) * weights).sum()}, all);
    for (size_t i = 0; i < all.size(); ++i) {
      CHECK(got[i].sizes() == all[i].sizes());
      CHECK(relative_error(got[i], wanted[i]) < 1e-13);
    }
  }
}

TEST_CASE("gradients of an adapted layer equal differences") {
  const at::Tensor x = random({4, in}, 31).requires_grad_();
  Linear layer = adapted_layer();
  std::vector<at::Tensor> all = leaves(layer);
  all.push_back(x);
  auto loss = [&] { return (apply(layer, x).square() * random({4, out}, 32)).sum(); };
  const auto gradients = torch::autograd::grad({loss()}, all);
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < all.size(); ++i) {
    const double step = 1e-5;
    const at::Tensor direction = random(all[i].sizes(), 40 + i);
    all[i].add_(direction, step);
    const double above = loss().item<double>();
    all[i].sub_(direction, 2 * step);
    const double below = loss().item<double>();
    all[i].add_(direction, step);
    const double wanted = (above - below) / (2 * step);
    CHECK((gradients[i] * direction).sum().item<double>() == Approx(wanted).epsilon(1e-7));
  }
}

TEST_CASE("a frozen layer costs no product for its weight's gradient") {
  Linear layer{random({out, in}, 1), random({out}, 2)};
  layer.adapters = {{random({2, in}, 3).requires_grad_(), random({out, 2}, 4).requires_grad_(), 1, 0}};
  const at::Tensor x = random({5, in}, 5);
  const at::Tensor frozen = apply(layer, x);
  // gy b, its product with x, and gyᵀ h.
  CHECK(products_in([&] { backward(frozen); }) == 3);
  CHECK_FALSE(layer.weight.grad().defined());
  const at::Tensor moved = apply(layer, x.clone().requires_grad_());
  CHECK(products_in([&] { backward(moved); }) == 5);
  layer.weight.requires_grad_();
  const at::Tensor whole = apply(layer, x.clone().requires_grad_());
  CHECK(products_in([&] { backward(whole); }) == 6);
  CHECK(relative_error(layer.weight.grad(), at::ones({out, 5}, at::kDouble).mm(x)) < 1e-14);
}

TEST_CASE("changes in float32 of a layer in bfloat16 have float32 gradients") {
  Linear layer{initial_noise({out, in}, 1).to(at::kBFloat16), initial_noise({out}, 2).to(at::kBFloat16)};
  layer.adapters = {
      {initial_noise({2, in}, 3).requires_grad_(), initial_noise({out, 2}, 4).requires_grad_()}};
  const at::Tensor x = initial_noise({5, in}, 5).to(at::kBFloat16);
  const at::Tensor y = apply(layer, x);
  CHECK(y.scalar_type() == at::kBFloat16);
  backward(y);
  for (const at::Tensor& each : {layer.adapters[0].a, layer.adapters[0].b}) {
    CHECK(each.grad().scalar_type() == at::kFloat);
  }
  const at::Tensor wanted = at::ones({5, out}).mm(layer.adapters[0].b.detach()).t().mm(x.to(at::kFloat));
  CHECK(relative_error(layer.adapters[0].a.grad(), wanted) < 0.02);
}

TEST_CASE("a layer in 8-bit floats keeps its changes, and has no gradients") {
  const int64_t size = 32;
  Linear layer{initial_noise({size, size}, 1), initial_noise({size}, 2)};
  Linear bare = layer;
  layer.adapters = {{initial_noise({2, size}, 3), initial_noise({8, 2}, 4), 0.5, 8}};
  quantize(layer);
  quantize(bare);
  REQUIRE(layer.scale.defined());
  const at::Tensor x = initial_noise({5, size}, 5);
  at::Tensor wanted = apply(bare, x);
  const LowRank& change = layer.adapters.at(0);
  wanted.narrow(1, 8, 8).add_(x.mm(change.a.t()).mm(change.b.t()), 0.5);
  CHECK(relative_error(apply(layer, x), wanted) < 1e-6);
  const auto error = caught([&] { apply(layer, x.clone().requires_grad_()); });
  CHECK(error.code == ExitCode::internal);
  CHECK(error.has("8-bit floats"));
}
