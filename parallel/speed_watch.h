// Whether the ranks of a group still are as fast as their shares of the work assume.
#pragma once

#include <span>
#include <vector>

namespace frameshard {

/// Collects what each rank took for its part of a step. Every rank that is told the same numbers decides the
/// same.
class SpeedWatch {
 public:
  /// Speeds that the shares were made from, in any unit; a speed of 0 stays so: that rank has no work to be
  /// measured.
  explicit SpeedWatch(std::vector<double> speeds) : speeds_(std::move(speeds)) {}

  /// A step: each rank's seconds of computing, without waiting for others, and its part of the work (together
  /// 1). True when the medians of the last steps show a rank's share of the speed more than 5 % off, so that
  /// new shares should be made from speeds(); then it begins anew.
  bool note(std::span<const double> seconds, std::span<const double> work);

  const std::vector<double>& speeds() const { return speeds_; }

  static constexpr size_t steps = 3;     ///< a single slow step is no drift
  static constexpr double drift = 0.05;  ///< of a rank's share

 private:
  std::vector<double> speeds_;
  std::vector<std::vector<double>> measured_;  // a step each: every rank's work a second
};

}  // namespace frameshard
