#include "parallel/guidance.h"
#include "tests/support/catch.h"

using namespace frameshard;

TEST_CASE("the rule: uncond + scale * (cond - uncond)") {
  const at::Tensor cond = at::tensor({1.0, -2.0, 0.5, 4.0}).view({1, 2, 2});
  const at::Tensor uncond = at::tensor({0.5, 1.0, 0.5, -1.0}).view({1, 2, 2});
  CHECK(at::equal(combine(cond, uncond, 5), at::tensor({3.0, -14.0, 0.5, 24.0}).view({1, 2, 2})));
  CHECK(at::equal(combine(cond, uncond, 1), cond));
  CHECK(at::equal(combine(cond, uncond, 0), uncond));
  CHECK(combine(cond.to(at::kFloat), uncond.to(at::kFloat), 5).scalar_type() == at::kFloat);
}

TEST_CASE("passes at once where a GPU would wait for its host") {
  CHECK(passes_together(true, 1280));
  CHECK_FALSE(passes_together(true, 32760));
  CHECK_FALSE(passes_together(false, 1280));
}
