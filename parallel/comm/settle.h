// Errors of several ranks, and what one of them knows alone.
#pragma once

#include <functional>
#include <vector>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// Runs `action` on every rank of the group; where it fails on some, all throw what the lowest of these did,
/// as an Error (its own exception on that rank). Who is done waits without using its core. `action` itself
/// must leave no rank alone in a collective. Collective.
void settle(Communicator& group, const std::function<void()>& action);

/// Of each place of a list (as long on all ranks), whether it is true on any of them. Collective.
std::vector<bool> on_any(const std::vector<bool>& mine, Communicator& group);
bool on_any(bool mine, Communicator& group);

}  // namespace frameshard
