// How a picture is divided into tiles that overlap, as in diffusers' AutoencoderKLWan.tiled_decode.
#pragma once

#include <cstdint>
#include <span>

namespace frameshard {

/// Tiles of size x size latents, one every `stride` in both directions; size / 2 <= stride <= size. The
/// defaults are diffusers': 256 and 192 pixels.
struct Tiling {
  int64_t size = 32, stride = 24;
  int64_t overlap() const { return size - stride; }
};

/// How many tiles ranks of these speeds decode before the first of them blends what has come: as many as the
/// slowest needs to have one, and no more than twice the ranks.
int64_t tiles_a_round(std::span<const double> speeds);

/// A part of a picture: rows [top, top + height), columns [left, left + width).
struct Area {
  int64_t top = 0, left = 0, height = 0, width = 0;
  bool operator==(const Area&) const = default;
};

/// The tiles of latents of height x width, numbered row by row. Those at the right and bottom edges are
/// smaller.
class TileGrid {
 public:
  TileGrid(int64_t height, int64_t width, const Tiling& tiling);

  /// Whether a picture of this size is divided at all: it is larger than a tile in some direction.
  static bool divides(int64_t height, int64_t width, const Tiling& tiling) {
    return height > tiling.size || width > tiling.size;
  }

  const Tiling& tiling() const { return tiling_; }
  int64_t columns() const { return columns_; }
  int64_t count() const { return rows_ * columns_; }
  /// What the tile is decoded from.
  Area tile(int64_t i) const { return area(i, tiling_.size); }
  /// What of the picture it is the last to change: all of them together are the picture, once.
  Area owned(int64_t i) const { return area(i, tiling_.stride); }

 private:
  Area area(int64_t i, int64_t size) const;

  int64_t height_, width_, rows_, columns_;
  Tiling tiling_;
};

}  // namespace frameshard
