#include "parallel/balance.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace frameshard {
namespace {

bool all_equal(std::span<const double> speeds) {
  return std::all_of(speeds.begin(), speeds.end(), [&](double speed) { return speed == speeds.front(); });
}

double sum(std::span<const double> numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), 0.0);
}

// The tokens of one Ulysses group over its ranks.
Partition divide_in_group(int64_t tokens, const Partition& heads, double attention_share,
                          std::span<const double> speeds) {
  const double whole = sum(speeds);
  std::vector<double> left;  // of each rank's share of the work, after its heads
  for (size_t i = 0; i < speeds.size(); ++i) {
    const double attention = double(heads.size(int(i))) / double(heads.total());
    left.push_back(speeds[i] == 0 ? 0 : std::max(0.0, speeds[i] / whole - attention_share * attention));
  }
  return Partition::weighted(tokens, sum(left) > 0 ? std::span<const double>(left) : speeds);
}

}  // namespace

Partition divide_heads(int64_t heads, int ulysses, std::span<const double> speeds) {
  if (speeds.empty() || all_equal(speeds)) return Partition::even(heads, ulysses);
  std::vector<double> of_places(size_t(ulysses), 0.0);
  for (size_t rank = 0; rank < speeds.size(); ++rank) of_places[rank % size_t(ulysses)] += speeds[rank];
  return Partition::weighted(heads, of_places);
}

Partition divide_tokens(int64_t tokens, const SequenceCost& cost, int ulysses, std::span<const double> speeds,
                        int ranks) {
  if (speeds.empty() || all_equal(speeds)) return Partition::even(tokens, ranks);
  require(int(speeds.size()) == ranks && ranks % ulysses == 0, "{} speeds for {} ranks in groups of {}",
          speeds.size(), ranks, ulysses);
  const Partition heads = divide_heads(cost.heads, ulysses, speeds);
  std::vector<double> of_groups;
  for (int first = 0; first < ranks; first += ulysses) {
    of_groups.push_back(sum(speeds.subspan(size_t(first), size_t(ulysses))));
  }
  const Partition groups = Partition::weighted(tokens, of_groups);
  std::vector<int64_t> sizes;
  for (int group = 0; group < groups.parts(); ++group) {
    const auto mine = speeds.subspan(size_t(group * ulysses), size_t(ulysses));
    const Partition parts = of_groups[size_t(group)] > 0
                                ? divide_in_group(groups.size(group), heads, cost.attention_share, mine)
                                : Partition::even(0, ulysses);
    sizes.insert(sizes.end(), parts.sizes().begin(), parts.sizes().end());
  }
  return Partition::of_sizes(std::move(sizes));
}

}  // namespace frameshard
