#include "parallel/balance.h"

#include "core/error.h"

namespace frameshard {
Partition divide_heads(int64_t heads, int ulysses, std::span<const double> speeds) {
  if (speeds.empty()) return Partition::even(heads, ulysses);
  std::vector<double> of_places(size_t(ulysses), 0.0);
  for (size_t rank = 0; rank < speeds.size(); ++rank) of_places[rank % size_t(ulysses)] += speeds[rank];
  return Partition::weighted(heads, of_places);
}

Partition divide_tokens(int64_t tokens, std::span<const double> speeds, int ranks) {
  if (speeds.empty()) return Partition::even(tokens, ranks);
  require(int(speeds.size()) == ranks, "{} speeds for {} ranks", speeds.size(), ranks);
  return Partition::weighted(tokens, speeds);
}

}  // namespace frameshard
