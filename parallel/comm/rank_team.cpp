#include "parallel/comm/rank_team.h"

#include "core/error.h"

namespace frameshard {

RankTeam::RankTeam(int n) {
  require(n >= 1, "a team of {} ranks", n);
  threads_.reserve(size_t(n));
  try {
    for (int rank = 0; rank < n; ++rank) threads_.emplace_back([this, rank] { work(rank); });
  } catch (...) {
    end();
    throw;
  }
}

RankTeam::~RankTeam() {
  end();
}

void RankTeam::end() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void RankTeam::work(int rank) {
  uint64_t done = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || round_ != done; });
    if (ending_) return;
    done = round_;
    lock.unlock();
    job_(rank);  // stays as it is until all ranks have ended theirs
    lock.lock();
    if (--at_work_ == 0) changed_.notify_all();
  }
}

void RankTeam::run(const RankBody& body) {
  for (const std::thread& thread : threads_) {
    require(thread.get_id() != std::this_thread::get_id(), "a rank of a team has called its own team");
  }
  const std::lock_guard turn(turn_);
  ThreadWorld world(size());
  {
    std::unique_lock lock(mutex_);
    job_ = [&](int rank) { world.run_rank(rank, body); };
    at_work_ = size();
    ++round_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return at_work_ == 0; });
    job_ = nullptr;
  }
  world.rethrow_first_failure();
}

}  // namespace frameshard
