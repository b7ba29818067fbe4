#include "parallel/balance.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

using Sizes = std::vector<int64_t>;

}  // namespace

TEST_CASE("ranks of one speed get what they got without speeds") {
  const std::vector<double> same{3, 3, 3};
  CHECK(divide_tokens(100, same, 3).sizes() == Partition::even(100, 3).sizes());
  CHECK(divide_tokens(100, {}, 3).sizes() == Partition::even(100, 3).sizes());
  CHECK(divide_heads(7, 3, same).sizes() == Sizes{3, 2, 2});
}

TEST_CASE("a group without speed has some division: it is dealt no passes") {
  const std::vector<double> none{0, 0};
  CHECK(divide_tokens(10, none, 2).sizes() == Sizes{5, 5});
  CHECK(divide_heads(3, 2, none).sizes() == Sizes{2, 1});
}

TEST_CASE("tokens and heads go by the speeds") {
  const std::vector<double> pair{2, 1}, many{40, 40, 15, 5, 0};
  CHECK(divide_tokens(3000, pair, 2).sizes() == Sizes{2000, 1000});
  CHECK(divide_heads(8, 2, pair).sizes() == Sizes{5, 3});
  CHECK(divide_tokens(1000, many, 5).sizes() == Sizes{400, 400, 150, 50, 0});
  CHECK(divide_heads(4, 5, many).sizes() == Sizes{2, 2, 0, 0, 0});
}

TEST_CASE("a place has the same heads in each Ulysses group of a ring") {
  const std::vector<double> speeds{2, 1, 1, 0};
  CHECK(divide_heads(4, 2, speeds).sizes() == Sizes{3, 1});
  CHECK(divide_tokens(400, speeds, 4).merged(2).sizes() == Sizes{300, 100});
}
