// Attention's loops of every instruction set that this processor has, against the definition in float64.
#include <cmath>

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/rng.h"
#include "models/common/attention_cpu.h"
#include "models/common/attention_kernel.h"
#include "tests/support/catch.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::testing::relative_error;

namespace {

struct Sizes {
  int64_t batch, queries, keys, heads, head_dim;
};

// Blocks of queries and keys that are not full, heads narrower and wider than a vector, and both at once.
const std::vector<Sizes> cases = {{1, 5, 7, 1, 1},     {2, 33, 70, 3, 8},    {1, 96, 192, 2, 32},
                                  {1, 97, 193, 2, 64}, {2, 200, 13, 2, 12},  {1, 1, 400, 1, 128},
                                  {1, 300, 1, 2, 40},  {1, 130, 450, 1, 257}};

struct Problem {
  explicit Problem(const Sizes& sizes)
      : q(random({sizes.batch, sizes.queries, sizes.heads, sizes.head_dim}, 1)),
        k(random({sizes.batch, sizes.keys, sizes.heads, sizes.head_dim}, 2)),
        v(random({sizes.batch, sizes.keys, sizes.heads, sizes.head_dim}, 3)),
        gradient(random(q.sizes(), 4)),
        bias(random({sizes.keys}, 5)) {}

  static at::Tensor random(at::IntArrayRef shape, uint64_t seed) { return initial_noise(shape, seed); }

  at::Tensor q, k, v, gradient, bias;
};

// The definition in float64: output, sums, and gradients of q, k and v.
struct Definition {
  explicit Definition(const Problem& problem, const at::Tensor& bias) {
    const auto leaf = [](const at::Tensor& x) { return x.to(at::kDouble).requires_grad_(true); };
    const at::Tensor q = leaf(problem.q), k = leaf(problem.k), v = leaf(problem.v);
    at::Tensor scores = at::einsum("bqhd,bkhd->bhqk", {q, k}) / std::sqrt(double(q.size(3)));
    if (bias.defined()) scores = scores + bias.to(at::kDouble);
    output = at::einsum("bhqk,bkhd->bqhd", {at::softmax(scores, -1), v});
    sums = at::logsumexp(scores, -1).detach();
    (output * problem.gradient.to(at::kDouble)).sum().backward();
    output = output.detach();
    gradients = {q.grad(), k.grad(), v.grad()};
  }
  at::Tensor output, sums;
  AttentionKernel::Gradients gradients;
};

double error(const at::Tensor& got, const at::Tensor& wanted) {
  return relative_error(got.to(at::kDouble), wanted);
}

// Largest error beside the largest number: a gradient that is 0 by the definition has no relative error.
double worst(const at::Tensor& got, const at::Tensor& wanted, const at::Tensor& beside) {
  return ((got.to(at::kDouble) - wanted).abs().max() / beside.abs().max()).item<double>();
}

}  // namespace

TEST_CASE("attention's loops are the definition, forward and backward") {
  const std::string loops = GENERATE(from_range(cpu::attention_loops()));
  for (const Sizes& sizes : cases) {
    const Problem problem(sizes);
    for (const at::Tensor& bias : {at::Tensor(), problem.bias}) {
      INFO(loops << ": " << sizes.queries << " queries, " << sizes.keys << " keys, " << sizes.head_dim
                 << " dims, bias " << bias.defined());
      const Definition wanted(problem, bias);
      const auto got = cpu::attention(problem.q, problem.k, problem.v, bias, loops);
      CHECK(error(got.first, wanted.output) < 1e-6);
      CHECK(error(got.second, wanted.sums) < 1e-6);
      const auto gradients =
          cpu::attention_backward(problem.gradient, problem.q, problem.k, problem.v, bias, got, loops);
      CHECK(worst(gradients.q, wanted.gradients.q, wanted.gradients.v) < 4e-6);
      CHECK(worst(gradients.k, wanted.gradients.k, wanted.gradients.v) < 4e-6);
      CHECK(error(gradients.v, wanted.gradients.v) < 1e-6);
    }
  }
}

TEST_CASE("attention's gradients reach what wants them, through tensors of any strides") {
  const Problem problem({2, 40, 50, 3, 16});
  const Definition wanted(problem, problem.bias);
  // One tensor of q, k and v together, heads before tokens, and dims apart.
  const at::Tensor q = problem.q.clone().requires_grad_(true);
  const at::Tensor k = problem.k.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(true);
  const at::Tensor v =
      problem.v.permute({3, 0, 1, 2}).contiguous().permute({1, 2, 3, 0}).requires_grad_(true);
  const at::Tensor output = attend_weighted(q, k, v, problem.bias.view({1, 1, 1, -1}));
  CHECK(error(output.detach(), wanted.output) < 1e-6);
  output.backward(problem.gradient.transpose(1, 2).contiguous().transpose(1, 2));
  CHECK(error(q.grad(), wanted.gradients.q) < 1e-5);
  CHECK(error(k.grad(), wanted.gradients.k) < 1e-5);
  CHECK(error(v.grad(), wanted.gradients.v) < 1e-6);

  const at::Tensor alone = problem.v.clone().requires_grad_(true);
  attend_weighted(problem.q, problem.k, alone, problem.bias.view({1, 1, 1, -1})).backward(problem.gradient);
  CHECK(error(alone.grad(), wanted.gradients.v) < 1e-6);
}

TEST_CASE("large scores do not overflow, and NaN stays") {
  const std::string loops = GENERATE(from_range(cpu::attention_loops()));
  Problem problem({1, 100, 300, 1, 8});
  problem.q.mul_(300);
  const Definition wanted(problem, {});
  const auto got = cpu::attention(problem.q, problem.k, problem.v, {}, loops);
  CHECK(error(got.first, wanted.output) < 1e-4);  // scores of 3000 are exact to 2e-4
  CHECK(error(got.second, wanted.sums) < 1e-6);
  // The largest payload, which must not be shifted into the exponent.
  problem.k[0][250][0][3] = std::nanf("0x3fffff");
  CHECK(cpu::attention(problem.q, problem.k, problem.v, {}, loops).first.isnan().all().item<bool>());
}

TEST_CASE("a row of attention does not depend on the number of threads or on other heads") {
  const Problem problem({2, 150, 210, 5, 16});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = cpu::attention(problem.q, problem.k, problem.v, {});
  at::set_num_threads(3);
  const auto three = cpu::attention(problem.q, problem.k, problem.v, {});
  at::set_num_threads(before);
  CHECK(at::equal(one.first, three.first));
  const auto part =
      cpu::attention(problem.q.narrow(2, 1, 2), problem.k.narrow(2, 1, 2), problem.v.narrow(2, 1, 2), {});
  CHECK(at::equal(part.first, one.first.narrow(2, 1, 2)));
  CHECK(at::equal(part.second, one.second.narrow(1, 1, 2)));
}
