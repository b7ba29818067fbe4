#include "parallel/context_windows.h"

#include <algorithm>

#include "core/error.h"

namespace frameshard {

std::vector<FrameWindow> context_windows(int64_t frames, int64_t window, int64_t overlap) {
  require(window > 0 && overlap >= 0 && overlap < window, "windows of {} frames that overlap by {}", window,
          overlap);
  if (frames <= window) return {{0, frames}};
  std::vector<FrameWindow> windows;
  for (int64_t begin = 0;; begin += window - overlap) {
    const int64_t end = std::min(begin + window, frames);
    windows.push_back({end - window, end});
    if (end == frames) return windows;
  }
}

std::vector<double> pyramid_weights(int64_t frames) {
  std::vector<double> weights;
  for (int64_t i = 0; i < frames; ++i) weights.push_back(double(std::min(i + 1, frames - i)));
  return weights;
}

}  // namespace frameshard
