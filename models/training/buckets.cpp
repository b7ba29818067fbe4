#include "models/training/buckets.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include <fmt/format.h>

namespace frameshard {
namespace {

ClipSize nearest_bucket(const ClipInfo& clip, const DataConfig& config) {
  const auto form = [](int64_t width, int64_t height) { return std::log(double(width) / double(height)); };
  const double wanted = form(clip.width, clip.height);
  const auto key = [&](const ClipSize& size) {
    return std::tuple(std::abs(form(size.width, size.height) - wanted), -size.width * size.height);
  };
  const auto sizes = bucket_sizes(config.width, config.height);
  return *std::min_element(sizes.begin(), sizes.end(),
                           [&](const ClipSize& a, const ClipSize& b) { return key(a) < key(b); });
}

}  // namespace

std::vector<ClipSize> bucket_sizes(int64_t width, int64_t height) {
  const int64_t pixels = width * height, step = pixels < 512 * 512 ? 16 : 64;
  const int64_t side = int64_t(std::sqrt(double(pixels))) / step * step;
  std::vector<ClipSize> sizes{{1, height, width}, {1, width, height}, {1, side, side}};
  for (int64_t shorter = step; shorter * shorter <= pixels; shorter += step) {
    const int64_t longer = pixels / shorter / step * step;
    if (longer > 4 * shorter) continue;
    sizes.push_back({1, shorter, longer});
    sizes.push_back({1, longer, shorter});
  }
  return sizes;
}

SizeChoice choose_size(const ClipInfo& clip, const DataConfig& config) {
  const bool buckets = config.buckets == "on";
  ClipSize size = buckets ? nearest_bucket(clip, config) : ClipSize{1, config.height, config.width};
  if (!clip.is_image) {
    size.frames = buckets ? (std::min(clip.frames, config.num_frames) - 1) / 4 * 4 + 1 : config.num_frames;
    if (clip.frames < size.frames) {
      return {{},
              fmt::format("is too short: {} frames, data.num_frames is {}; with data.buckets=on it would be "
                          "trained as it is",
                          clip.frames, config.num_frames)};
    }
  }
  const double larger =
      std::max(double(size.width) / double(clip.width), double(size.height) / double(clip.height));
  if (larger > most_enlarged) {
    return {{},
            fmt::format("is too small: {}x{} pixels for {}x{}; lower data.width and data.height", clip.width,
                        clip.height, size.width, size.height)};
  }
  return {size, ""};
}

}  // namespace frameshard
