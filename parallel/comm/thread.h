// Ranks as threads of one process: reference semantics for tests, and the way one process drives several
// devices.
#pragma once

#include <functional>

#include "core/error.h"
#include "parallel/comm/communicator.h"

namespace frameshard {

/// Thrown in ranks that were woken because another one failed; never the first cause.
struct OtherRankFailed : Error {
  OtherRankFailed() : Error(ExitCode::internal, "another rank failed") {}
};

/// Calls `body` on `n` threads, each with its communicator, and waits for all. When a rank throws, the others
/// are woken from their collectives, and the first rank's exception is thrown again here.
void run_ranks(int n, const std::function<void(Communicator&)>& body);

}  // namespace frameshard
