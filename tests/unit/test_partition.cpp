#include <algorithm>
#include <cmath>
#include <numeric>

#include "parallel/partition.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;
using Sizes = std::vector<int64_t>;

namespace {

// The pieces follow each other without a gap and make up the whole.
void check_covers(const Partition& partition, int64_t total) {
  int64_t next = 0;
  for (int part = 0; part < partition.parts(); ++part) {
    CHECK(partition.begin(part) == next);
    CHECK(partition.end(part) == next + partition.size(part));
    next = partition.end(part);
  }
  CHECK(next == total);
  CHECK(partition.total() == total);
  CHECK(partition.largest() == *std::max_element(partition.sizes().begin(), partition.sizes().end()));
}

Sizes weighted(int64_t total, std::vector<double> speeds) {
  return Partition::weighted(total, speeds).sizes();
}

}  // namespace

TEST_CASE("even pieces: the first ones take what is left over") {
  CHECK(Partition::even(10, 3).sizes() == Sizes{4, 3, 3});
  CHECK(Partition::even(8, 4).sizes() == Sizes{2, 2, 2, 2});
  CHECK(Partition::even(2, 5).sizes() == Sizes{1, 1, 0, 0, 0});
  CHECK(Partition::even(0, 2).sizes() == Sizes{0, 0});
  CHECK(Partition::even(32760, 1).sizes() == Sizes{32760});
  CHECK(Partition::even(10, 3).begin(2) == 7);
  CHECK(Partition::even(10, 3).end(2) == 10);
}

TEST_CASE("even pieces cover the whole, differ by at most one and never grow") {
  for (int64_t total = 0; total <= 50; ++total) {
    for (int parts = 1; parts <= 9; ++parts) {
      const Partition partition = Partition::even(total, parts);
      CHECK(partition.parts() == parts);
      check_covers(partition, total);
      for (int part = 0; part < parts; ++part) CHECK(std::abs(partition.size(part) - total / parts) <= 1);
      CHECK(std::is_sorted(partition.sizes().rbegin(), partition.sizes().rend()));
      CHECK(partition.largest() == (total + parts - 1) / parts);
    }
  }
}

TEST_CASE("weighted pieces go by the largest remainder") {
  CHECK(weighted(10, {1, 1, 1}) == Sizes{4, 3, 3});  // equal remainders: the lower rank
  CHECK(weighted(10, {3, 1}) == Sizes{8, 2});        // 7.5 and 2.5
  CHECK(weighted(7, {1, 2, 4}) == Sizes{1, 2, 4});
  CHECK(weighted(10, {1, 2, 4}) == Sizes{1, 3, 6});  // 1.43, 2.86, 5.71: two left for .86 and .71
  CHECK(weighted(100, {0.5, 0.25, 0.25}) == Sizes{50, 25, 25});
  CHECK(weighted(1, {1, 1000}) == Sizes{0, 1});
  CHECK(weighted(0, {1, 2}) == Sizes{0, 0});
  CHECK(weighted(5, {7.25}) == Sizes{5});
}

TEST_CASE("a speed of 0 gets nothing") {
  CHECK(weighted(10, {1, 0, 1}) == Sizes{5, 0, 5});
  CHECK(weighted(11, {0, 1, 0, 1}) == Sizes{0, 6, 0, 5});
  CHECK(weighted(3, {0, 0, 2}) == Sizes{0, 0, 3});
}

TEST_CASE("weighted pieces cover the whole and lie within one of the exact share") {
  const std::vector<std::vector<double>> lists = {
      {1, 1}, {1, 2}, {0.1, 0.2, 0.7}, {3, 0, 5, 7}, {1e-3, 1, 1e3}, {1.0 / 3, 1.0 / 3, 1.0 / 3}, {0, 9}};
  for (const auto& speeds : lists) {
    const double sum = std::accumulate(speeds.begin(), speeds.end(), 0.0);
    for (int64_t total : {0, 1, 2, 3, 7, 45, 100, 32760, 75600}) {
      const Partition partition = Partition::weighted(total, speeds);
      check_covers(partition, total);
      for (size_t i = 0; i < speeds.size(); ++i) {
        CHECK(std::abs(double(partition.size(int(i))) - double(total) * speeds[i] / sum) < 1);
        if (speeds[i] == 0) CHECK(partition.size(int(i)) == 0);
      }
    }
  }
}

TEST_CASE("equal speeds give the even partition") {
  for (int64_t total = 0; total <= 40; ++total) {
    for (int parts = 1; parts <= 7; ++parts) {
      CHECK(weighted(total, std::vector<double>(size_t(parts), 2.5)) ==
            Partition::even(total, parts).sizes());
    }
  }
}

TEST_CASE("groups of neighbouring parts") {
  const Partition partition = Partition::of_sizes({4, 0, 3, 2, 1, 5});
  CHECK(partition.total() == 15);
  CHECK(partition.merged(1).sizes() == partition.sizes());
  CHECK(partition.merged(2).sizes() == Sizes{4, 5, 6});
  CHECK(partition.merged(3).sizes() == Sizes{7, 8});
  CHECK(partition.merged(6).sizes() == Sizes{15});
  CHECK(partition.merged(2).begin(2) == partition.begin(4));
}

TEST_CASE("some parts alone, counted from 0") {
  const Partition partition = Partition::of_sizes({4, 0, 3, 2});
  CHECK(partition.slice(0, 4).sizes() == partition.sizes());
  CHECK(partition.slice(1, 2).sizes() == Sizes{0, 3});
  CHECK(partition.slice(2, 2).begin(0) == 0);
  CHECK(partition.slice(2, 2).total() == 5);
}

TEST_CASE("merging and slicing agree") {
  for (int64_t total : {0, 5, 45, 46}) {
    const Partition partition = Partition::even(total, 6);
    for (int size : {1, 2, 3, 6}) {
      for (int group = 0; group < 6 / size; ++group) {
        CHECK(partition.slice(group * size, size).total() == partition.merged(size).size(group));
      }
    }
  }
}

TEST_CASE("partitions that cannot be are defects") {
  const auto refused = [](auto call) { return caught(call).code == ExitCode::internal; };
  CHECK(refused([] { Partition::even(-1, 2); }));
  CHECK(refused([] { Partition::even(3, 0); }));
  CHECK(refused([] { Partition::of_sizes({}); }));
  CHECK(refused([] { Partition::of_sizes({2, -1}); }));
  CHECK(refused([] { Partition::even(6, 4).merged(3); }));
  CHECK(refused([] { Partition::even(6, 4).merged(0); }));
  CHECK(refused([] { weighted(3, {0, 0}); }));
  CHECK(refused([] { weighted(3, {}); }));
  CHECK(refused([] { weighted(3, {2, -1}); }));
  CHECK(refused([] { weighted(3, {1, std::nan("")}); }));
}
