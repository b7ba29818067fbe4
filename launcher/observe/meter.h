// What can be measured of a rank from outside its work.
#pragma once

#include <chrono>

#include <ATen/ATen.h>

#include "launcher/observe/status.h"

namespace frameshard {

/// For one thread; the rank itself may be in another.
class Meter {
 public:
  explicit Meter(const at::Device& device);
  /// Fills in memory, and what was sent and how busy the device was since the call before.
  void measure(RankStatus& status);

 private:
  using Clock = std::chrono::steady_clock;

  void measure_rates(const RankStatus& status, double seconds);

  at::Device device_;
  Clock::time_point last_;
  double cpu_seconds_;
  int64_t bytes_ = 0, peak_ = 0;
  double bytes_per_second_ = 0;
  std::optional<double> busy_;
};

}  // namespace frameshard
