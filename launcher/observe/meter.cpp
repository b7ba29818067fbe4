#include "launcher/observe/meter.h"

#include <algorithm>
#include <ctime>

#include "core/device.h"

namespace frameshard {
namespace {

// A rate over less says nothing.
constexpr double shortest_seconds = 0.05;

// Of all threads of this process.
double process_cpu_seconds() {
  return double(std::clock()) / CLOCKS_PER_SEC;
}

}  // namespace

Meter::Meter(const at::Device& device)
    : device_(device), last_(Clock::now()), cpu_seconds_(process_cpu_seconds()) {}

void Meter::measure(RankStatus& status) {
  const double seconds = std::chrono::duration<double>(Clock::now() - last_).count();
  if (seconds >= shortest_seconds) measure_rates(status, seconds);
  status.bytes_per_second = bytes_per_second_;
  status.busy = busy_;
  status.memory_bytes = memory_in_use(device_);
  // The device's own peak is that of the phase (launcher/video_maker.cpp starts it anew).
  peak_ = std::max({peak_, status.memory_bytes, peak_memory(device_)});
  status.memory_peak_bytes = std::max(peak_, status.memory_peak_bytes);
}

void Meter::measure_rates(const RankStatus& status, double seconds) {
  last_ = Clock::now();
  const int64_t bytes = status.cp_bytes + status.cfg_bytes;
  bytes_per_second_ = double(bytes - std::exchange(bytes_, bytes)) / seconds;
  const double cpu = process_cpu_seconds();
  const double share = (cpu - std::exchange(cpu_seconds_, cpu)) / seconds;
  busy_ = device_.is_cuda() ? gpu_utilisation(device_) : std::optional(share);
}

}  // namespace frameshard
