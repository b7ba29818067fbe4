// How the monotonic clocks of a group's ranks stand to each other: hosts count from their own start.
#pragma once

#include <chrono>
#include <functional>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// Time since a fixed moment of this host.
using HostClock = std::function<std::chrono::nanoseconds()>;
std::chrono::nanoseconds steady_now();

/// Rank 0's clock is this rank's plus `offset`, give or take `error`.
struct ClockOffset {
  std::chrono::nanoseconds offset{0}, error{0};
};

/// Each round bounds the offset, since what rank 0 reads lies between what this rank reads before it has said
/// that it is ready and after it has heard of it (F. Cristian, Probabilistic clock synchronization, 1989);
/// the bounds of all rounds hold together. Collective; `comm` moves host data.
ClockOffset measure_clock(Communicator& comm, const HostClock& now = steady_now);

}  // namespace frameshard
