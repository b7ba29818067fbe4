// Errors of several ranks.
#pragma once

#include <functional>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// Runs `action` on every rank of the group; where it fails on some, all throw what the lowest of these did,
/// as an Error (its own exception on that rank). Who is done waits without using its core. `action` itself
/// must leave no rank alone in a collective. Collective.
void settle(Communicator& group, const std::function<void()>& action);

}  // namespace frameshard
