#include "parallel/speed_watch.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace frameshard {
namespace {

std::vector<double> shares_of(const std::vector<double>& speeds) {
  const double sum = std::accumulate(speeds.begin(), speeds.end(), 0.0);
  std::vector<double> shares;
  for (double speed : speeds) shares.push_back(speed / sum);
  return shares;
}

}  // namespace

bool SpeedWatch::note(std::span<const double> seconds, std::span<const double> work) {
  require(seconds.size() == speeds_.size() && work.size() == speeds_.size(),
          "{} speeds, {} times and {} parts of the work", speeds_.size(), seconds.size(), work.size());
  std::vector<double> now;
  for (size_t i = 0; i < speeds_.size(); ++i) {
    now.push_back(speeds_[i] > 0 && work[i] > 0 && seconds[i] > 0 ? work[i] / seconds[i] : 0);
  }
  measured_.push_back(std::move(now));
  if (measured_.size() < steps) return false;

  std::vector<double> medians;
  for (size_t rank = 0; rank < speeds_.size(); ++rank) {
    std::vector<double> each;
    for (const auto& step : measured_) each.push_back(step[rank]);
    std::nth_element(each.begin(), each.begin() + each.size() / 2, each.end());
    medians.push_back(each[each.size() / 2]);
  }
  measured_.erase(measured_.begin());
  // A rank that had no work keeps the speed that is assumed, in the measured ones' unit.
  double assumed_sum = 0, measured_sum = 0;
  for (size_t i = 0; i < medians.size(); ++i) {
    if (medians[i] > 0) assumed_sum += speeds_[i], measured_sum += medians[i];
  }
  if (measured_sum == 0) return false;
  for (size_t i = 0; i < medians.size(); ++i) {
    if (medians[i] == 0) medians[i] = speeds_[i] * measured_sum / assumed_sum;
  }
  const auto assumed = shares_of(speeds_), found = shares_of(medians);
  bool off = false;
  for (size_t i = 0; i < assumed.size(); ++i) {
    if (std::abs(found[i] - assumed[i]) > drift * assumed[i]) off = true;
  }
  if (!off) return false;
  speeds_ = std::move(medians);
  measured_.clear();
  return true;
}

}  // namespace frameshard
