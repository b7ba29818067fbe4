#include "core/io/png_writer.h"
#include "core/rng.h"
#include "models/step_passes.h"
#include "parallel/guidance.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::caught;

namespace {

const std::vector<int64_t> latents{2, 5, 4, 6};  // [C, F, h, w]

std::vector<at::Tensor> random_predictions(const StepPasses& passes) {
  std::vector<at::Tensor> predictions;
  for (size_t i = 0; i < passes.all().size(); ++i)
    predictions.push_back(initial_noise(passes.shape(), i + 1));
  return predictions;
}

RequestConfig request_of(int prompts, double guidance_scale) {
  RequestConfig request;
  request.guidance_scale = guidance_scale;
  if (prompts == 1) request.prompt = "a";
  for (int i = 0; prompts > 1 && i < prompts; ++i)
    request.prompts.push_back({.text = "a", .weight = i + 1.0});
  return request;
}

}  // namespace

TEST_CASE("the passes of one prompt are guidance's") {
  const StepPasses on(request_of(1, 5), latents, {5, 0}), off(request_of(1, 1), latents, {5, 0});
  REQUIRE(on.all().size() == 2);
  REQUIRE(off.all().size() == 1);
  CHECK(on.shape() == std::vector<int64_t>{1, 2, 5, 4, 6});
  const auto p = random_predictions(on);
  CHECK(at::equal(on.combine(p), combine(p[0], p[1], 5)));
  CHECK(at::equal(off.combine({p[0]}), p[0]));
  CHECK(off.combine({p[0].to(at::kBFloat16)}).scalar_type() == at::kFloat);
  CHECK(caught([&] { on.combine({p[0]}); }).has("1 predictions for 2 passes"));
}

TEST_CASE("several prompts count by their weights") {
  const StepPasses passes(request_of(3, 5), latents, {5, 0});
  REQUIRE(passes.all().size() == 4);
  const auto p = random_predictions(passes);
  const at::Tensor cond = (p[0] + 2 * p[1] + 3 * p[2]) / 6;
  CHECK(at::allclose(passes.combine(p), combine(cond, p[3], 5), 1e-5, 1e-5));
}

TEST_CASE("a mask says where a prompt counts") {
  if (!can_write_png()) {
    WARN("not run: built without libpng");
    return;
  }
  const test::Scratch scratch;
  // The left half white, the right half black.
  std::vector<uint8_t> pixels;
  for (int row = 0; row < 4; ++row) {
    for (int column = 0; column < 6; ++column) pixels.insert(pixels.end(), 3, column < 3 ? 255 : 0);
  }
  const auto file = scratch.path() / "left.png";
  write_png(file, 6, 4, pixels);
  RequestConfig request = request_of(2, 1);
  request.prompts[0].mask = file.string();
  const StepPasses passes(request, latents, {5, 0});
  const auto p = random_predictions(passes);
  const at::Tensor all = passes.combine(p);
  const at::Tensor both = (p[0] + 2 * p[1]) / 3;
  CHECK(at::allclose(all.narrow(4, 0, 3), both.narrow(4, 0, 3), 1e-5, 1e-6));
  CHECK(at::allclose(all.narrow(4, 3, 3), p[1].narrow(4, 3, 3), 1e-5, 1e-6));
}

TEST_CASE("windows are blended by how far a frame is from their ends") {
  const StepPasses passes(request_of(1, 5), latents, {3, 1});  // [0, 3) and [2, 5)
  REQUIRE(passes.all().size() == 4);
  CHECK((passes.all()[2].frames == FrameWindow{2, 5}));
  CHECK((passes.all()[2].text == 0 && passes.all()[3].text == 1));
  CHECK(passes.shape() == std::vector<int64_t>{1, 2, 3, 4, 6});
  const auto p = random_predictions(passes);
  const at::Tensor first = combine(p[0], p[1], 5), second = combine(p[2], p[3], 5), all = passes.combine(p);
  CHECK(at::allclose(all.narrow(2, 0, 2), first.narrow(2, 0, 2)));
  CHECK(at::allclose(all.narrow(2, 3, 2), second.narrow(2, 1, 2)));
  CHECK(at::allclose(all.select(2, 2), (first.select(2, 2) + second.select(2, 0)) / 2));
}

TEST_CASE("one window's passes in a batch, or each alone") {
  const StepPasses passes(request_of(1, 5), latents, {3, 1});
  using Batches = std::vector<std::vector<size_t>>;
  CHECK(batches_of({0, 1, 2, 3}, passes.all(), true) == Batches{{0, 1}, {2, 3}});
  CHECK(batches_of({0, 1, 2, 3}, passes.all(), false) == Batches{{0}, {1}, {2}, {3}});
  CHECK(batches_of({1, 2}, passes.all(), true) == Batches{{1}, {2}});
  CHECK(batches_of({}, passes.all(), true).empty());
}
