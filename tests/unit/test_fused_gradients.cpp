// Gradients of the fused loops against those that autograd finds of the same formulas in ATen's operations.
#include <limits>

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include "core/rng.h"
#include "models/common/fused.h"
#include "models/common/rope.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

using Tensors = std::vector<at::Tensor>;
using Operation = std::function<at::Tensor(const Tensors& inputs)>;

at::Tensor random(at::IntArrayRef shape) {
  static uint64_t seed = 0;
  return initial_noise(shape, ++seed) * 2 + 0.5;
}

// An operation by the loops, and the same in ATen's operations.
struct Pair {
  Operation fused, unfused;
};

Pair norm_and_modulation() {
  return {[](const Tensors& in) { return norm_modulate(in[0], in[1], in[2], 1e-6); },
          [](const Tensors& in) { return unfused::norm_modulate(in[0], in[1], in[2], 1e-6); }};
}

Pair norm_and_rotation(int64_t heads, const at::Tensor& rope) {
  return {[=](const Tensors& in) { return rms_norm_rotate(in[0], in[1], heads, rope, 1e-6); },
          [=](const Tensors& in) { return unfused::rms_norm_rotate(in[0], in[1], heads, rope, 1e-6); }};
}

Pair sum_with_gate() {
  return {[](const Tensors& in) { return gated_sum(in[0], in[1], in[2]); },
          [](const Tensors& in) { return unfused::gated_sum(in[0], in[1], in[2]); }};
}

Pair gelu() {
  return {[](const Tensors& in) { return gelu_tanh(in[0]); },
          [](const Tensors& in) { return at::gelu(in[0], "tanh"); }};
}

// Leaves in the same memory, of which those of `wanted`'s bits require a gradient.
Tensors leaves(const Tensors& inputs, unsigned wanted) {
  Tensors result;
  for (size_t i = 0; i < inputs.size(); ++i) {
    result.push_back(inputs[i].detach().requires_grad_((wanted >> i & 1U) != 0));
  }
  return result;
}

unsigned all_of(const Tensors& inputs) {
  return (1U << inputs.size()) - 1;
}

bool is_by_loops(const at::Tensor& out) {
  return out.grad_fn() && out.grad_fn()->name().find("frameshard::cpu") != std::string::npos;
}

// Undefined where not wanted.
Tensors gradients(const Operation& operation, const Tensors& inputs, unsigned wanted, const at::Tensor& gy) {
  const Tensors own = leaves(inputs, wanted);
  torch::autograd::backward({operation(own)}, {gy});
  Tensors result;
  for (const at::Tensor& leaf : own) result.push_back(leaf.grad());
  return result;
}

void check_close(const at::Tensor& got, const at::Tensor& wanted) {
  REQUIRE(got.sizes() == wanted.sizes());
  CHECK((got - wanted).abs().max().item<double>() <= 1e-5 * wanted.abs().max().item<double>());
}

// The result, and the gradients of all inputs and of each choice of them.
void check(const Pair& pair, const Tensors& inputs) {
  const at::Tensor out = pair.fused(leaves(inputs, all_of(inputs)));
  CHECK(is_by_loops(out));
  check_close(out.detach(), pair.unfused(inputs));
  const at::Tensor gy = random(out.sizes());
  const Tensors got = gradients(pair.fused, inputs, all_of(inputs), gy);
  const Tensors expected = gradients(pair.unfused, inputs, all_of(inputs), gy);
  for (size_t i = 0; i < inputs.size(); ++i) check_close(got[i], expected[i]);
  for (unsigned wanted = 1; wanted < all_of(inputs); ++wanted) {
    const Tensors some = gradients(pair.fused, inputs, wanted, gy);
    for (size_t i = 0; i < inputs.size(); ++i) {
      REQUIRE(some[i].defined() == ((wanted >> i & 1U) != 0));
      if (some[i].defined()) CHECK(at::equal(some[i], got[i]));
    }
  }
}

struct Shape {
  int64_t batch, rows, d;
};

// Rows of less than a chunk of sums, of whole ones, and of parts; dims that fill no vector.
Shape shape() {
  return GENERATE(Shape{1, 3, 5}, Shape{1, 64, 8}, Shape{2, 70, 37}, Shape{2, 130, 100}, Shape{3, 128, 64});
}

}  // namespace

TEST_CASE("gradients of norm and modulation") {
  const auto [batch, rows, d] = shape();
  const at::Tensor x = random({batch, rows, d});
  check(norm_and_modulation(), {x, random({batch, 1, d}), random({batch, 1, d})});
  // Parts of a larger tensor, as the modulation comes.
  const auto parts = random({batch, 6, d}).chunk(6, 1);
  check(norm_and_modulation(), {x, parts[2], parts[5]});
}

TEST_CASE("gradients of RMS norm and rotation") {
  const int64_t heads = 3, head_dim = GENERATE(2, 6, 20, 32), d = heads * head_dim;
  const int64_t batch = GENERATE(1, 2);
  const std::vector<int64_t> grid = GENERATE(std::vector<int64_t>{2, 5, 7}, std::vector<int64_t>{1, 2, 2});
  const int64_t rows = grid[0] * grid[1] * grid[2];
  const at::Tensor rope = rope_table(grid, head_dim, 16, at::kCPU), weight = random({d});
  for (const at::Tensor& turns : {rope, at::Tensor()}) {
    check(norm_and_rotation(heads, turns), {random({batch, rows, d}), weight});
    // Rows apart from each other, as q and k come.
    check(norm_and_rotation(heads, turns), {random({batch, rows, 3 * d}).chunk(3, -1)[1], weight});
  }
}

TEST_CASE("gradients of a gated sum") {
  const auto [batch, rows, d] = shape();
  const at::Tensor x = random({batch, rows, d}), branch = random({batch, rows, d});
  check(sum_with_gate(), {x, branch, random({batch, 1, d})});
  check(sum_with_gate(), {x, branch, random({batch, 6, d}).chunk(6, 1)[1]});
}

TEST_CASE("gradients of GELU") {
  check(gelu(), {random({2, 70, 37})});
  check(gelu(), {at::linspace(-30, 30, 20001)});
}

TEST_CASE("GELU far from 0 has gradients of 0 and 1, and NaN is not lost") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor x = at::tensor({-3e38F, -1e13F, -1e4F, -17.0F, 17.0F, 1e4F, 1e13F, 3e38F});
  const at::Tensor wanted = at::tensor({0.0F, 0.0F, 0.0F, 0.0F, 1.0F, 1.0F, 1.0F, 1.0F});
  CHECK(at::equal(gradients(gelu().fused, {x}, 1, at::ones({8}))[0], wanted));
  CHECK(at::isnan(gradients(gelu().fused, {at::full({19}, nan)}, 1, at::ones({19}))[0]).all().item<bool>());
}

TEST_CASE("gradients that come in another layout") {
  const Tensors inputs{random({2, 70, 12}), random({2, 1, 12}), random({2, 1, 12})};
  const Tensors attention{inputs[0], random({12})}, sum{inputs[0], random({2, 70, 12}), inputs[1]};
  const auto same = [](const Pair& pair, const Tensors& in, const at::Tensor& gy) {
    const Tensors got = gradients(pair.fused, in, all_of(in), gy);
    const Tensors dense = gradients(pair.fused, in, all_of(in), gy.contiguous());
    for (size_t i = 0; i < in.size(); ++i) CHECK(at::equal(got[i], dense[i]));
  };
  for (const at::Tensor& gy : {at::ones({}).expand({2, 70, 12}), random({2, 12, 70}).transpose(1, 2)}) {
    same(norm_and_modulation(), inputs, gy);
    same(norm_and_rotation(3, {}), attention, gy.unflatten(-1, {3, 4}));
    same(sum_with_gate(), sum, gy);
    same(gelu(), {inputs[0]}, gy);
  }
}

TEST_CASE("the same bits of gradients with any number of threads") {
  const at::Tensor x = random({2, 999, 64}), scale = random({2, 1, 64}), values = random({100001}),
                   rope = at::polar(x, x).select(0, 0).narrow(1, 0, 8);
  const auto all = [&] {
    Tensors result;
    const auto add = [&](const Pair& pair, const Tensors& inputs, const at::Tensor& gy) {
      for (const at::Tensor& each : gradients(pair.fused, inputs, all_of(inputs), gy)) {
        result.push_back(each.flatten());
      }
    };
    add(norm_and_modulation(), {x, scale, scale}, x);
    add(norm_and_rotation(4, rope), {x, scale[0][0]}, x.unflatten(-1, {4, 16}));
    add(sum_with_gate(), {x, x, scale}, x);
    add(gelu(), {values}, values);
    return at::cat(result);
  };
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = all();
  at::set_num_threads(2);
  const at::Tensor two = all();
  at::set_num_threads(before);
  CHECK(at::equal(one, two));
}

TEST_CASE("nothing is overwritten where gradients are on") {
  const at::Tensor x = random({2, 9, 21}), before = x.clone(), gate = random({2, 1, 21});
  const at::Tensor sum = gated_sum(x, x, gate), bent = gelu_tanh(x);
  CHECK_FALSE(sum.requires_grad());
  CHECK_FALSE(bent.requires_grad());
  CHECK(at::equal(x, before));
  check_close(sum, unfused::gated_sum(x, x, gate));
  check_close(bent, at::gelu(x, "tanh"));
}

TEST_CASE("what the loops do not take has gradients by ATen") {
  const Tensors inputs{random({2, 9, 6}), random({2, 1, 6}), random({2, 1, 6})};
  const auto same = [&](const Pair& pair, const Tensors& in) {
    const at::Tensor out = pair.fused(leaves(in, all_of(in)));
    CHECK_FALSE(is_by_loops(out));
    const at::Tensor gy = random(out.sizes()).to(out.scalar_type());
    const Tensors got = gradients(pair.fused, in, all_of(in), gy);
    const Tensors wanted = gradients(pair.unfused, in, all_of(in), gy);
    for (size_t i = 0; i < in.size(); ++i) CHECK(at::equal(got[i], wanted[i]));
  };
  const at::Tensor narrow = inputs[0].to(at::kBFloat16), turned = random({2, 6, 9}).transpose(1, 2);
  for (const at::Tensor& x : {narrow, turned}) {
    same(norm_and_modulation(), {x, inputs[1], inputs[2]});
    same(norm_and_rotation(3, {}), {x, random({6}).to(x.scalar_type())});
    same(sum_with_gate(), {x, x, inputs[1]});
    same(gelu(), {x});
  }
  same(sum_with_gate(), {inputs[0], inputs[0], random({1, 1, 6})});
}
