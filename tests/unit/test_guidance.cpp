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

using Lists = std::vector<std::vector<Branch>>;

TEST_CASE("one rank computes both branches, the conditional one first") {
  const CommPtr self = make_self_communicator();
  // In one batch, or one after the other.
  for (const auto& [together, lists] : {std::pair(true, Lists{{Branch::cond, Branch::uncond}}),
                                        std::pair(false, Lists{{Branch::cond}, {Branch::uncond}})}) {
    const GuidanceCombiner guidance(*self, 5, together);
    CHECK(guidance.guided());
    CHECK((guidance.mine() == lists));
    std::vector<size_t> computed;
    const at::Tensor result = guidance([&](size_t list) {
      computed.push_back(list);
      std::vector<at::Tensor> batch;
      for (Branch branch : guidance.mine()[list]) batch.push_back(result_of(branch));
      return at::cat(batch);
    });
    CHECK(at::equal(result, combine(cond, uncond, 5)));
    CHECK(computed.size() == guidance.mine().size());
  }
}

TEST_CASE("at a scale of 1 or less the conditional branch alone is computed") {
  const CommPtr self = make_self_communicator();
  for (double scale : {1.0, 0.5, 0.0}) {
    const GuidanceCombiner guidance(*self, scale, true);
    CHECK_FALSE(guidance.guided());
    CHECK((guidance.mine() == Lists{{Branch::cond}}));
    int calls = 0;
    const at::Tensor result = guidance([&](size_t) {
      ++calls;
      return cond;
    });
    CHECK(calls == 1);
    CHECK(at::equal(result, cond));
  }
}

TEST_CASE("two ranks compute one branch each, and both have the result") {
  REQUIRE_NOTHROW(run_ranks(2, [](Communicator& cfg) {
    const GuidanceCombiner guidance(cfg, 5, true);
    const Branch expected = cfg.rank() == 0 ? Branch::cond : Branch::uncond;
    check(guidance.mine() == Lists{{expected}}, "one branch a rank");
    const at::Tensor result = guidance([&](size_t) { return result_of(expected); });
    check(at::equal(result, combine(cond, uncond, 5)), "the combined prediction");
    check(cfg.stats().bytes_sent == int64_t(cond.nbytes()), "each rank sends its branch once");
    // A model may return a view.
    const at::Tensor turned = guidance([&](size_t) { return result_of(expected).transpose(1, 2); });
    check(at::equal(turned, combine(cond, uncond, 5).transpose(1, 2)), "a result that is not contiguous");
  }));
}

TEST_CASE("groups that do not fit guidance are defects") {
  for (const auto& [ranks, scale] : {std::pair(2, 1.0), std::pair(3, 5.0)}) {
    const auto error = caught([&, n = ranks, s = scale] {
      run_ranks(n, [&](Communicator& cfg) { GuidanceCombiner(cfg, s, true); });
    });
    CHECK(error.code == ExitCode::internal);
    CHECK(error.has("CFG group of " + std::to_string(ranks) + " ranks"));
  }
}

TEST_CASE("both branches at once where a GPU would wait for its host") {
  CHECK(branches_together(true, 1280));
  CHECK_FALSE(branches_together(true, 32760));
  CHECK_FALSE(branches_together(false, 1280));
}
