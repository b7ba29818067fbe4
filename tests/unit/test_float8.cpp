// Linear layers in 8-bit floats: their rounding, and their products against plain ones.
#include <limits>

#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/common/float8.h"
#include "models/common/layers.h"
#include "parallel/comm/self.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"
#include "tests/support/small_model.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::relative_error;
using frameshard::testing::SmallModel;

namespace {

at::Tensor restored(const Float8Rows& rows) {
  return rows.values.to(at::kFloat) * rows.scale.unsqueeze(1);
}

Linear random_layer(int64_t out, int64_t in, at::ScalarType dtype = at::kFloat) {
  return {initial_noise({out, in}, 1).to(dtype), initial_noise({out}, 2).to(dtype)};
}

at::Tensor predict(const SmallModel& model) {
  const c10::NoGradGuard no_grad;
  const CommPtr alone = make_self_communicator();
  const AttentionPtr attention = make_local_attention();
  const ParallelSequence sequence(*alone, *attention, Partition::even(45, 1));
  return model.denoiser().predict(initial_noise({1, 16, 3, 10, 6}, 5), at::full({1}, 423.0),
                                  model.denoiser().prepare(model.text().cond[0]), sequence);
}

}  // namespace

TEST_CASE("rows are rounded to 3 bits of mantissa, their largest value to 448") {
  at::Tensor x = initial_noise({9000, 24}, 3);
  x[1] *= 1e6;
  x[2] *= 1e-6;
  const Float8Rows rows = quantize_rows(x);
  CHECK(rows.values.scalar_type() == at::kFloat8_e4m3fn);
  CHECK(rows.scale.sizes() == at::IntArrayRef({9000}));
  CHECK(at::equal(rows.values.to(at::kFloat).abs().amax({1}), at::full({9000}, 448.0F)));
  // Half a unit in the last place, or in that of the smallest numbers (2^-9) for what is below 2^-6.
  const at::Tensor scaled = x / rows.scale.unsqueeze(1);
  const at::Tensor error = (rows.values.to(at::kFloat) - scaled).abs();
  CHECK((error <= at::maximum(scaled.abs() / 16, at::full({1}, 1.0F / 1024)) * 1.0001F).all().item<bool>());
}

TEST_CASE("a row of zeros stays one, and what is not a number stays visible") {
  at::Tensor x = initial_noise({4, 16}, 3);
  x[0].zero_();
  x[1][3] = std::numeric_limits<float>::quiet_NaN();
  x[2][3] = std::numeric_limits<float>::infinity();
  const at::Tensor got = restored(quantize_rows(x));
  CHECK(at::equal(got[0], x[0]));
  CHECK(!at::isfinite(got[1]).all().item<bool>());
  CHECK(!at::isfinite(got[2]).all().item<bool>());
  CHECK(at::isfinite(got[3]).all().item<bool>());
}

TEST_CASE("a product of 8-bit floats is near the plain one") {
  const c10::NoGradGuard no_grad;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const Linear plain = random_layer(96, 1024, dtype);
    Linear layer = plain;
    quantize(layer);
    REQUIRE(layer.scale.defined());
    CHECK(layer.weight.element_size() == 1);
    const at::Tensor x = initial_noise({2, 50, 1024}, 4).to(dtype);
    const at::Tensor got = apply(layer, x), wanted = at::linear(x, plain.weight, plain.bias);
    CHECK(got.scalar_type() == dtype);
    CHECK(got.sizes() == wanted.sizes());
    const double error = relative_error(got, wanted);
    CHECK(error > 0.01);
    CHECK(error < 0.04);
    CHECK(relative_error(apply_gelu(layer, x), at::gelu(wanted, "tanh")) < 0.05);
  }
}

TEST_CASE("the product in float32 is that of ATen's operation for 8-bit floats") {
  const Float8Rows x = quantize_rows(initial_noise({50, 1024}, 4));
  Linear layer{initial_noise({96, 1024}, 1), {}};
  quantize(layer);
  // On a CPU it takes no scale a row.
  const at::Tensor one = at::ones({});
  const at::Tensor sums =
      at::_scaled_mm(x.values, layer.weight.t(), one, one, std::nullopt, std::nullopt, at::kFloat);
  const at::Tensor wanted = sums * x.scale.unsqueeze(1) * layer.scale.unsqueeze(0);
  CHECK(relative_error(restored(x).matmul(restored({layer.weight, layer.scale}).t()), wanted) < 1e-5);
}

TEST_CASE("a layer whose sizes are no multiples of 16 stays as it is") {
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{24, 32}, {32, 24}}) {
    Linear layer = random_layer(out, in);
    quantize(layer);
    CHECK_FALSE(layer.scale.defined());
    CHECK(layer.weight.scalar_type() == at::kFloat);
  }
}

TEST_CASE("a denoiser in 8-bit floats gives nearly the same") {
  SmallModel model;
  const at::Tensor plain = predict(model);
  model.denoiser().quantize_linear();
  const double error = relative_error(predict(model), plain);
  CHECK(error > 1e-4);
  CHECK(error < 0.1);
}

TEST_CASE("8-bit floats are refused on a CPU") {
  const auto error = caught([] { require_float8(at::Device(at::kCPU)); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has("lossy.float8_linear needs a GPU of compute capability 8.9 or more; this is a CPU"));
}
