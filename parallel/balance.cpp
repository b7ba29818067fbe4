#include "parallel/balance.h"

#include <algorithm>

#include "core/error.h"

namespace frameshard {
namespace {

// A group whose ranks all have speed 0 is dealt no passes: any division will do.
bool no_matter(std::span<const double> speeds) {
  return std::all_of(speeds.begin(), speeds.end(), [](double speed) { return speed == 0; });
}

}  // namespace

Partition divide_heads(int64_t heads, int ulysses, std::span<const double> speeds) {
  if (no_matter(speeds)) return Partition::even(heads, ulysses);
  std::vector<double> of_places(size_t(ulysses), 0.0);
  for (size_t rank = 0; rank < speeds.size(); ++rank) of_places[rank % size_t(ulysses)] += speeds[rank];
  return Partition::weighted(heads, of_places);
}

Partition divide_tokens(int64_t tokens, std::span<const double> speeds, int ranks) {
  if (no_matter(speeds)) return Partition::even(tokens, ranks);
  require(int(speeds.size()) == ranks, "{} speeds for {} ranks", speeds.size(), ranks);
  return Partition::weighted(tokens, speeds);
}

}  // namespace frameshard
