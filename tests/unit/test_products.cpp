// Products through oneDNN, and their gradients, against ATen's in float64.
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/rng.h"
#include "models/common/products.h"
#include "tests/support/catch.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::testing::relative_error;

namespace {

double error(const at::Tensor& got, const at::Tensor& wanted) {
  return relative_error(got.to(at::kDouble), wanted);
}

at::Tensor wide(const at::Tensor& x) {
  return x.detach().to(at::kDouble);
}

// Plain, rows apart in memory, and transposed.
std::vector<at::Tensor> layouts(int64_t rows, int64_t columns, uint64_t seed) {
  return {initial_noise({rows, columns}, seed),
          initial_noise({rows, 3 * columns}, seed + 1).narrow(1, 2, columns),
          initial_noise({columns, rows}, seed + 2).t()};
}

}  // namespace

TEST_CASE("products of matrices of any strides") {
  const c10::NoGradGuard no_grad;
  for (const at::Tensor& a : layouts(9, 20, 1)) {
    for (const at::Tensor& b : layouts(20, 13, 10)) {
      INFO("strides " << a.strides() << " and " << b.strides());
      const at::Tensor wanted = wide(a).mm(wide(b)), start = initial_noise({9, 26}, 20);
      CHECK(error(matrix_product(a, b), wanted) < 1e-6);
      CHECK(error(onednn::matrix_product(a, b), wanted) < 1e-6);
      at::Tensor sum = start.clone();
      add_product(sum.narrow(1, 5, 13), a, b, -0.5);
      CHECK(error(sum.narrow(1, 5, 13), wide(start).narrow(1, 5, 13) - 0.5 * wanted) < 1e-6);
      CHECK(at::equal(sum.narrow(1, 0, 5), start.narrow(1, 0, 5)));
    }
  }
  CHECK(matrix_product(at::zeros({0, 4}), at::zeros({4, 3})).sizes() == at::IntArrayRef({0, 3}));
}

TEST_CASE("a frozen layer keeps no input") {
  for (const bool frozen : {true, false}) {
    const at::Tensor weight = initial_noise({24, 40}, 1).requires_grad_(!frozen);
    at::Tensor y;
    c10::weak_intrusive_ptr<c10::StorageImpl> input = [&] {
      const at::Tensor x = initial_noise({7, 40}, 2).requires_grad_(true), inner = x * 2;
      y = onednn::linear(inner, weight, {});
      return c10::weak_intrusive_ptr<c10::StorageImpl>(inner.storage().getWeakStorageImpl());
    }();
    CHECK(input.expired() == frozen);
    y.sum().backward();
  }
}

TEST_CASE("linear layers through oneDNN, with the gradients that are wanted") {
  const unsigned wanted = GENERATE(range(0U, 8U));  // bits: x, weight, bias
  const bool has_bias = GENERATE(true, false);
  const auto leaf = [&](const at::Tensor& x, unsigned bit, at::ScalarType dtype) {
    return x.detach().to(dtype).requires_grad_((wanted >> bit & 1U) != 0);
  };
  const at::Tensor x_values = initial_noise({2, 7, 120}, 4).narrow(2, 40, 40),
                   w_values = initial_noise({24, 40}, 5), b_values = initial_noise({24}, 6),
                   gradient = initial_noise({2, 7, 24}, 7);
  std::vector<at::Tensor> got, expected;
  const auto run = [&](at::ScalarType dtype, auto product, std::vector<at::Tensor>& gradients) {
    const at::Tensor x = leaf(x_values, 0, dtype), weight = leaf(w_values, 1, dtype),
                     bias = leaf(b_values, 2, dtype);
    const at::Tensor y = product(x, weight, has_bias ? bias : at::Tensor());
    if (y.requires_grad()) y.backward(gradient.to(dtype));
    gradients = {x.grad(), weight.grad(), has_bias ? bias.grad() : at::Tensor()};
    return y.detach();
  };
  const at::Tensor y = run(at::kDouble, at::linear, expected);
  for (auto product : {onednn::linear, linear}) {
    CHECK(error(run(at::kFloat, product, got), y) < 1e-6);
    for (size_t i = 0; i < got.size(); ++i) {
      REQUIRE(got[i].defined() == expected[i].defined());
      if (got[i].defined()) CHECK(error(got[i], expected[i]) < 1e-6);
    }
  }
}
