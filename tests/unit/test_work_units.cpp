#include "parallel/comm/self.h"
#include "parallel/comm/thread.h"
#include "parallel/work_units.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::check;

namespace {

std::vector<double> alike(size_t count) {
  return std::vector<double>(count, 1.0);
}

// Its number, as often as its shape says.
class NumberUnit : public WorkUnit {
 public:
  NumberUnit(int64_t number, std::atomic<int>& computed) : number_(number), computed_(computed) {}
  double cost() const override { return double(number_ + 1); }
  std::vector<int64_t> shape() const override { return {2, number_ + 1}; }
  at::Tensor compute() const override {
    ++computed_;
    return at::full({number_ + 1, 2}, double(number_)).t();  // not contiguous
  }

 private:
  int64_t number_;
  std::atomic<int>& computed_;
};

class LyingUnit : public WorkUnit {
  double cost() const override { return 1; }
  std::vector<int64_t> shape() const override { return {2}; }
  at::Tensor compute() const override { return at::zeros({3}); }
};

}  // namespace

TEST_CASE("equal units go round the workers in turn") {
  CHECK(schedule(alike(2), alike(2)) == Deal{{0}, {1}});
  CHECK(schedule(alike(5), alike(2)) == Deal{{0, 2, 4}, {1, 3}});
  CHECK(schedule(alike(1), alike(3)) == Deal{{0}, {}, {}});
  CHECK(schedule({}, alike(2)) == Deal{{}, {}});
}

TEST_CASE("a faster worker gets more units, and one of speed 0 none") {
  const std::vector<double> two_to_one{2, 1};
  CHECK(schedule(alike(1), two_to_one) == Deal{{0}, {}});
  CHECK(schedule(alike(3), two_to_one) == Deal{{0, 2}, {1}});
  const Deal seven = schedule(alike(7), two_to_one);
  CHECK((seven[0].size() == 5 && seven[1].size() == 2));
  CHECK(finish_time(seven, alike(7), two_to_one) == 2.5);
  CHECK(schedule(alike(3), std::vector<double>{0, 1}) == Deal{{}, {0, 1, 2}});
  CHECK(schedule(alike(2), std::vector<double>{3, 1}) == Deal{{0, 1}, {}});  // the slow one would take longer
  CHECK(caught([] { schedule(alike(2), std::vector<double>{0, 0}); }).has("none of 2 workers"));
}

TEST_CASE("the costliest units go first, so that small ones even out the end") {
  const std::vector<double> costs{1, 1, 1, 3, 2, 4};
  const Deal deal = schedule(costs, alike(2));
  CHECK(finish_time(deal, costs, alike(2)) == 6);
  CHECK(deal == Deal{{0, 1, 5}, {2, 3, 4}});
}

TEST_CASE("no deal is more than a third above the best") {
  // Against all deals of 7 units to 2 unequal workers.
  const std::vector<double> costs{5, 3, 8, 2, 7, 1, 4}, speeds{2, 1};
  double best = 1e9;
  for (unsigned mask = 0; mask < 128; ++mask) {
    Deal deal(2);
    for (size_t unit = 0; unit < 7; ++unit) deal[mask >> unit & 1].push_back(unit);
    best = std::min(best, finish_time(deal, costs, speeds));
  }
  CHECK(finish_time(schedule(costs, speeds), costs, speeds) <= best * 4 / 3);
}

TEST_CASE("every rank has every unit's result, and each is computed once") {
  for (const int ranks : {1, 2, 3, 4}) {
    for (const int64_t count : {1, 3, 7}) {
      std::atomic<int> computed{0};
      run_ranks(ranks, [&](Communicator& group) {
        WorkUnits units;
        for (int64_t i = 0; i < count; ++i) units.push_back(std::make_unique<NumberUnit>(i, computed));
        std::vector<double> speeds(size_t(ranks), 1.0);
        speeds[0] = 2.5;
        const auto results = compute_units(units, speeds, group, at::empty({0}));
        check(int64_t(results.size()) == count, "a result a unit");
        for (int64_t i = 0; i < count; ++i) {
          check(at::equal(results[size_t(i)], at::full({2, i + 1}, double(i))), fmt::format("unit {}", i));
        }
      });
      CHECK(computed == count);
    }
  }
}

TEST_CASE("a unit that makes something else than it says is a defect") {
  const CommPtr self = make_self_communicator();
  WorkUnits units;
  units.push_back(std::make_unique<LyingUnit>());
  CHECK(caught([&] {
          compute_units(units, {}, *self, at::empty({0}));
        }).has("work unit 0 has made a tensor of another"));
  const std::vector<double> two(2, 1.0);
  CHECK(caught([&] { compute_units(units, two, *self, at::empty({0})); }).has("2 speeds for 1 ranks"));
}
