// The progress of long work: one bar that redraws itself on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace frameshard {

class Progress {
 public:
  /// Shows nothing when `visible` is false (every rank but the first). `done`: of `total`, before this run,
  /// whose times do not count.
  Progress(std::string label, int64_t total, bool visible, int64_t done = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// One more of `total` is done.
  void advance();

 private:
  void show(bool last);

  std::string label_;
  int64_t total_, before_, done_;
  bool visible_, terminal_;
  std::chrono::steady_clock::time_point start_;
};

/// Seconds as people read them: "8.2 s", "3:05", "1:02:03".
std::string format_duration(double seconds);

}  // namespace frameshard
