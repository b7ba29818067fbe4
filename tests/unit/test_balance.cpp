#include <algorithm>

#include "parallel/balance.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

using Sizes = std::vector<int64_t>;

// What a rank's part of a forward pass takes, in units of the whole on a rank of speed 1.
std::vector<double> seconds(const Partition& tokens, const Partition& heads, double attention_share,
                            const std::vector<double>& speeds) {
  std::vector<double> result;
  for (int i = 0; i < tokens.parts(); ++i) {
    const double attention = attention_share * double(heads.size(i)) / double(heads.total());
    const double others = (1 - attention_share) * double(tokens.size(i)) / double(tokens.total());
    if (speeds[size_t(i)] > 0) result.push_back((attention + others) / speeds[size_t(i)]);
  }
  return result;
}

}  // namespace

TEST_CASE("ranks of one speed get what they got without speeds") {
  const std::vector<double> same{3, 3, 3};
  CHECK(divide_tokens(100, {7, 0.3}, 3, same, 3).sizes() == Partition::even(100, 3).sizes());
  CHECK(divide_tokens(100, {7, 0.3}, 1, {}, 3).sizes() == Partition::even(100, 3).sizes());
  CHECK(divide_heads(7, 3, same).sizes() == Sizes{3, 2, 2});
}

TEST_CASE("tokens make up for heads that do not divide") {
  const std::vector<double> speeds{2, 1};
  const Partition heads = divide_heads(4, 2, speeds), tokens = divide_tokens(3000, {4, 0.3}, 2, speeds, 2);
  CHECK(heads.sizes() == Sizes{3, 1});
  CHECK(tokens.size(0) < 2000);  // it has more than two thirds of the heads
  const auto taken = seconds(tokens, heads, 0.3, speeds);
  CHECK(taken[0] == Approx(1.0 / 3).epsilon(1e-3));
  CHECK(taken[1] == Approx(1.0 / 3).epsilon(1e-3));
}

TEST_CASE("four unequal ranks, more ranks than heads, and a rank that is left out") {
  const std::vector<double> speeds{40, 40, 15, 5, 0};
  const Partition heads = divide_heads(4, 5, speeds), tokens = divide_tokens(1000, {4, 0.2}, 5, speeds, 5);
  CHECK(heads.sizes() == Sizes{2, 2, 0, 0, 0});
  CHECK(tokens.total() == 1000);
  CHECK(tokens.size(4) == 0);
  const auto taken = seconds(tokens, heads, 0.2, speeds);
  const auto [least, most] = std::minmax_element(taken.begin(), taken.end());
  CHECK(*most < 1.02 * *least);
}

TEST_CASE("a ring of Ulysses groups: a group's rows by the speed of all its ranks") {
  const std::vector<double> speeds{2, 1, 1, 0};
  const Partition tokens = divide_tokens(400, {4, 0.5}, 2, speeds, 4);
  CHECK(tokens.size(0) + tokens.size(1) == 300);
  CHECK(tokens.size(2) == 100);
  CHECK(tokens.size(3) == 0);
  CHECK(divide_heads(4, 2, speeds).sizes() == Sizes{3, 1});  // 3 to 1, the same in both groups
}

TEST_CASE("a rank whose heads are already more than its share gets no tokens, and nothing is lost") {
  const std::vector<double> speeds{1, 1, 1, 1.1};
  const Partition tokens = divide_tokens(100, {1, 0.9}, 4, speeds, 4);
  CHECK(divide_heads(1, 4, speeds).sizes() == Sizes{0, 0, 0, 1});
  CHECK(tokens.size(3) == 0);
  CHECK(tokens.total() == 100);
}
