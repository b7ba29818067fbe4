#include "parallel/comm/clock.h"

#include <limits>

namespace frameshard {
namespace {

constexpr int rounds = 16;

}  // namespace

std::chrono::nanoseconds steady_now() {
  return std::chrono::steady_clock::now().time_since_epoch();
}

ClockOffset measure_clock(Communicator& comm, const HostClock& now) {
  int64_t least = std::numeric_limits<int64_t>::min(), most = std::numeric_limits<int64_t>::max();
  for (int round = 0; round < rounds; ++round) {
    at::Tensor ready = at::zeros({1}, at::kLong);
    const int64_t before = now().count();
    comm.all_reduce(ready);  // ends on rank 0 when all ranks have begun it
    at::Tensor first = at::full({1}, now().count(), at::kLong);
    comm.broadcast(first, 0);
    const int64_t after = now().count(), read = first.item<int64_t>();
    least = std::max(least, read - after);
    most = std::min(most, read - before);
  }
  if (comm.rank() == 0) return {};
  return {std::chrono::nanoseconds(least + (most - least) / 2),
          std::chrono::nanoseconds((most - least + 1) / 2)};
}

}  // namespace frameshard
