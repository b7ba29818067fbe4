#include "parallel/partition.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace frameshard {

Partition::Partition(std::vector<int64_t> sizes) : sizes_(std::move(sizes)) {
  require(!sizes_.empty(), "a partition needs at least one part");
  for (int64_t size : sizes_) {
    require(size >= 0, "a part of size {}", size);
    begins_.push_back(total_);
    total_ += size;
  }
}

Partition Partition::of_sizes(std::vector<int64_t> sizes) {
  return Partition(std::move(sizes));
}

Partition Partition::even(int64_t total, int parts) {
  require(total >= 0 && parts >= 1, "cannot divide {} into {} parts", total, parts);
  std::vector<int64_t> sizes(size_t(parts), total / parts);
  for (int64_t i = 0; i < total % parts; ++i) ++sizes[size_t(i)];
  return Partition(std::move(sizes));
}

Partition Partition::weighted(int64_t total, std::span<const double> speeds) {
  const double sum = std::accumulate(speeds.begin(), speeds.end(), 0.0);
  require(sum > 0 && std::all_of(speeds.begin(), speeds.end(), [](double s) { return s >= 0; }),
          "speeds must be 0 or more, and not all 0");
  std::vector<int64_t> sizes;
  std::vector<std::pair<double, size_t>> remainders;
  for (size_t i = 0; i < speeds.size(); ++i) {
    const double exact = double(total) * speeds[i] / sum;
    sizes.push_back(int64_t(std::floor(exact)));
    remainders.emplace_back(speeds[i] > 0 ? exact - std::floor(exact) : -1, i);
  }
  // Largest remainder first; among equals the lower rank, so that every rank computes the same.
  std::stable_sort(remainders.begin(), remainders.end(), [](auto& a, auto& b) { return a.first > b.first; });
  int64_t left = total - std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  for (size_t i = 0; left > 0; ++i, --left) ++sizes[remainders[i].second];
  return Partition(std::move(sizes));
}

int64_t Partition::largest() const {
  return *std::max_element(sizes_.begin(), sizes_.end());
}

Partition Partition::merged(int group_size) const {
  require(group_size >= 1 && parts() % group_size == 0, "{} parts do not make groups of {}", parts(),
          group_size);
  std::vector<int64_t> sizes;
  for (int i = 0; i < parts(); i += group_size) {
    sizes.push_back(std::accumulate(sizes_.begin() + i, sizes_.begin() + i + group_size, int64_t{0}));
  }
  return Partition(std::move(sizes));
}

Partition Partition::slice(int first, int count) const {
  return Partition({sizes_.begin() + first, sizes_.begin() + first + count});
}

}  // namespace frameshard
