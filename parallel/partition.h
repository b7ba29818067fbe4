// How a sequence (or a set of heads) is divided over ranks: contiguous pieces, no padding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace frameshard {

class Partition {
 public:
  /// Pieces that differ by at most one; the first `total % parts` are the larger ones.
  static Partition even(int64_t total, int parts);
  /// Pieces in proportion to `speeds` (>= 0, not all 0), by the largest remainder; a speed of 0 gets nothing.
  static Partition weighted(int64_t total, std::span<const double> speeds);
  static Partition of_sizes(std::vector<int64_t> sizes);

  int parts() const { return int(sizes_.size()); }
  int64_t total() const { return total_; }
  int64_t size(int part) const { return sizes_[size_t(part)]; }
  int64_t begin(int part) const { return begins_[size_t(part)]; }
  int64_t end(int part) const { return begin(part) + size(part); }
  const std::vector<int64_t>& sizes() const { return sizes_; }
  int64_t largest() const;

  /// The partition over groups of `group_size` neighbouring parts.
  Partition merged(int group_size) const;
  /// The parts [first, first + count) alone, counted from 0.
  Partition slice(int first, int count) const;

 private:
  explicit Partition(std::vector<int64_t> sizes);

  std::vector<int64_t> sizes_, begins_;
  int64_t total_ = 0;
};

}  // namespace frameshard
