// Ranks as threads that stay: for a program that has devices compute together again and again, and would
// otherwise pay for starting threads (and the pools of their own loops) at every call.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/comm/thread_world.h"

namespace frameshard {

class RankTeam {
 public:
  /// Starts `n` threads, which sleep until there is something to run. Throws std::system_error where the
  /// system has no more threads.
  explicit RankTeam(int n);
  /// Ends the threads and waits for them.
  ~RankTeam();
  RankTeam(const RankTeam&) = delete;
  RankTeam& operator=(const RankTeam&) = delete;

  int size() const { return int(threads_.size()); }

  /// Calls `body` on all ranks, each time the same thread for a rank, and waits for all. When a rank throws,
  /// the others are woken from their collectives, and the first rank's exception is thrown again here. Each
  /// call has groups of its own, so that a failure leaves nothing behind and the team can run again; a
  /// communicator must not outlive its call. Calls from several threads take turns; a rank of the team itself
  /// must not call it (ExitCode::internal).
  void run(const RankBody& body);

 private:
  void work(int rank);
  void end();

  std::mutex turn_;  // held for a whole call of run()
  std::mutex mutex_;
  std::condition_variable changed_;
  // Under mutex_:
  std::function<void(int rank)> job_;
  uint64_t round_ = 0;  // of the job
  int at_work_ = 0;
  bool ending_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace frameshard
