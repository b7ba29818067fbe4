// The length of a gradient whose shards lie on several ranks, against that of the whole.
#include <cmath>
#include <limits>

#include "models/training/optimizer.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

constexpr int64_t elements = 10007;

// Elements [from, to), in two shards.
std::vector<ParameterShard> shards_of(const at::Tensor& gradient, int64_t from, int64_t to) {
  const int64_t middle = from + (to - from) / 3;
  std::vector<ParameterShard> shards;
  for (const auto& [begin, end] : {std::pair(from, middle), std::pair(middle, to)}) {
    const at::Tensor part = gradient.narrow(0, begin, end - begin);
    shards.push_back({.begin = begin, .end = end, .parameter = part, .gradient = part});
  }
  return shards;
}

std::vector<ParameterShard> own_shards(const at::Tensor& gradient, const Communicator& world) {
  // Nothing for the last of several ranks.
  const int64_t parts = std::max(1, world.size() - 1), rank = world.rank();
  return shards_of(gradient, elements * std::min(rank, parts) / parts,
                   elements * std::min(rank + 1, parts) / parts);
}

}  // namespace

TEST_CASE("the norm of divided gradients is that of the whole") {
  on_ranks({1, 2, 3, 4}, [](Communicator& world) {
    const at::Tensor gradient = at::arange(elements, at::kFloat).sin();
    const double wanted = gradient.to(at::kDouble).norm().item<double>();
    const double divided = Optimizer::gradient_norm(own_shards(gradient, world), true, world);
    check(std::abs(divided / wanted - 1) < 1e-7, fmt::format("divided: {} and not {}", divided, wanted));
    const double whole = Optimizer::gradient_norm(shards_of(gradient, 0, elements), false, world);
    check(std::abs(whole / wanted - 1) < 1e-7, fmt::format("whole: {} and not {}", whole, wanted));
  });
}

TEST_CASE("NaN and Inf on one rank are seen by all") {
  on_ranks({2, 3}, [](Communicator& world) {
    at::Tensor gradient = at::ones({elements});
    if (world.rank() == 0) gradient[5] = std::numeric_limits<float>::quiet_NaN();
    check(std::isnan(Optimizer::gradient_norm(own_shards(gradient, world), true, world)), "NaN");
    if (world.rank() == 0) gradient[5] = std::numeric_limits<float>::infinity();
    check(std::isinf(Optimizer::gradient_norm(own_shards(gradient, world), true, world)), "Inf");
  });
}
