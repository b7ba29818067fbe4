#include "parallel/comm/self.h"
#include "parallel/comm/thread.h"
#include "parallel/guidance.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::check;

namespace {

const at::Tensor cond = at::tensor({1.0, -2.0, 0.5, 4.0}).view({1, 2, 2});
const at::Tensor uncond = at::tensor({0.5, 1.0, 0.5, -1.0}).view({1, 2, 2});

at::Tensor result_of(Branch branch) {
  return branch == Branch::cond ? cond : uncond;
}

}  // namespace

TEST_CASE("the rule: uncond + scale * (cond - uncond)") {
  CHECK(at::equal(combine(cond, uncond, 5), at::tensor({3.0, -14.0, 0.5, 24.0}).view({1, 2, 2})));
  CHECK(at::equal(combine(cond, uncond, 1), cond));
  CHECK(at::equal(combine(cond, uncond, 0), uncond));
  CHECK(combine(cond.to(at::kFloat), uncond.to(at::kFloat), 5).scalar_type() == at::kFloat);
}

TEST_CASE("one rank computes both branches, the conditional one first") {
  const CommPtr self = make_self_communicator();
  const GuidanceCombiner guidance(*self, 5);
  CHECK(guidance.guided());
  CHECK((guidance.mine() == std::vector<Branch>{Branch::cond, Branch::uncond}));
  std::vector<Branch> computed;
  const at::Tensor result = guidance([&](Branch branch) {
    computed.push_back(branch);
    return result_of(branch);
  });
  CHECK(at::equal(result, combine(cond, uncond, 5)));
  CHECK((computed == guidance.mine()));
}

TEST_CASE("at a scale of 1 or less the conditional branch alone is computed") {
  const CommPtr self = make_self_communicator();
  for (double scale : {1.0, 0.5, 0.0}) {
    const GuidanceCombiner guidance(*self, scale);
    CHECK_FALSE(guidance.guided());
    CHECK((guidance.mine() == std::vector<Branch>{Branch::cond}));
    int calls = 0;
    const at::Tensor result = guidance([&](Branch branch) {
      ++calls;
      return result_of(branch);
    });
    CHECK(calls == 1);
    CHECK(at::equal(result, cond));
  }
}

TEST_CASE("two ranks compute one branch each, and both have the result") {
  REQUIRE_NOTHROW(run_ranks(2, [](Communicator& cfg) {
    const GuidanceCombiner guidance(cfg, 5);
    const Branch expected = cfg.rank() == 0 ? Branch::cond : Branch::uncond;
    check(guidance.mine() == std::vector<Branch>{expected}, "one branch a rank");
    const at::Tensor result = guidance([&](Branch branch) {
      check(branch == expected, "no branch of the other rank");
      return result_of(branch);
    });
    check(at::equal(result, combine(cond, uncond, 5)), "the combined prediction");
    check(cfg.stats().bytes_sent == int64_t(cond.nbytes()), "each rank sends its branch once");
    // A model may return a view.
    const at::Tensor turned = guidance([](Branch branch) { return result_of(branch).transpose(1, 2); });
    check(at::equal(turned, combine(cond, uncond, 5).transpose(1, 2)), "a result that is not contiguous");
  }));
}

TEST_CASE("groups that do not fit guidance are defects") {
  for (const auto& [ranks, scale] : {std::pair(2, 1.0), std::pair(3, 5.0)}) {
    const auto error = caught(
        [&, n = ranks, s = scale] { run_ranks(n, [&](Communicator& cfg) { GuidanceCombiner(cfg, s); }); });
    CHECK(error.code == ExitCode::internal);
    CHECK(error.has("CFG group of " + std::to_string(ranks) + " ranks"));
  }
}
