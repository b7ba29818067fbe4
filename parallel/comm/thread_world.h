// What ranks that are threads have in common, for whoever starts the threads: run_ranks (thread.h) for one
// call, RankTeam (rank_team.h) for many.
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/communicator.h"

namespace frameshard {

using RankBody = std::function<void(Communicator&)>;

/// One group of `n` ranks, for one call of a body on each.
class ThreadWorld {
 public:
  explicit ThreadWorld(int n);
  ~ThreadWorld();
  ThreadWorld(const ThreadWorld&) = delete;
  ThreadWorld& operator=(const ThreadWorld&) = delete;

  /// Calls `body` with the communicator of `rank` on the thread that calls this, once for each rank. What it
  /// throws stays here, and wakes the other ranks from their collectives.
  void run_rank(int rank, const RankBody& body);
  /// Throws what the first rank that failed has thrown, if one has; when run_rank has returned for all.
  void rethrow_first_failure() const;

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace frameshard
