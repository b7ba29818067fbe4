// Errors of several ranks: one of them reports, and all end with the same code.
#pragma once

#include <functional>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// All ranks end with this code; one of them has said why.
struct Ended {
  int code;
};

/// All ranks learn of every failure; the lowest rank that failed reports it, and all throw Ended. Ending at
/// once would race with the launcher, which kills the others. Collective.
void all_or_none(Communicator& world, const std::function<void()>& action);

}  // namespace frameshard
