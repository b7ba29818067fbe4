#include "parallel/tiles.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace frameshard {

int64_t tiles_a_round(std::span<const double> speeds) {
  double sum = 0, least = std::numeric_limits<double>::infinity();
  for (const double speed : speeds) {
    sum += speed;
    if (speed > 0) least = std::min(least, speed);
  }
  return int64_t(std::min(std::ceil(sum / least), 2.0 * double(speeds.size())));
}

TileGrid::TileGrid(int64_t height, int64_t width, const Tiling& tiling)
    : height_(height),
      width_(width),
      rows_((height + tiling.stride - 1) / tiling.stride),
      columns_((width + tiling.stride - 1) / tiling.stride),
      tiling_(tiling) {
  // Else three tiles would lie over one another, and a blended edge would change later.
  require(tiling.stride <= tiling.size && tiling.size <= 2 * tiling.stride,
          "tiles of {} every {}: the stride must be between half the size and the size", tiling.size,
          tiling.stride);
}

Area TileGrid::area(int64_t i, int64_t size) const {
  const int64_t top = i / columns_ * tiling_.stride, left = i % columns_ * tiling_.stride;
  return {.top = top,
          .left = left,
          .height = std::min(size, height_ - top),
          .width = std::min(size, width_ - left)};
}

}  // namespace frameshard
