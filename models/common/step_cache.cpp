#include "models/common/step_cache.h"

namespace frameshard {

std::vector<bool> steps_to_reuse(const std::vector<double>& changes, double threshold) {
  std::vector<bool> reuse(changes.size() + 1, false);
  double sum = 0;
  for (size_t i = 1; i + 1 < reuse.size(); ++i) {
    sum += changes[i - 1];
    reuse[i] = sum < threshold;  // never where the sum is NaN
    if (!reuse[i]) sum = 0;
  }
  return reuse;
}

}  // namespace frameshard
