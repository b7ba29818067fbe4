// One queue of work that all ranks of a group draw from: whoever is free takes the next item.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// Indices of `costs`, the most expensive first, equal ones by index. Dealt in this order to whoever is free,
/// the last to finish is late by at most the work of one item (R. L. Graham, Bounds on multiprocessing timing
/// anomalies, 1969: at most 4/3 of the shortest possible time).
std::vector<int64_t> longest_first(std::span<const double> costs);

/// How well the ranks that asked were kept busy; rank 0's clock.
struct QueueUse {
  int64_t items = 0;         ///< given out and asked past: done
  double busy_seconds = 0;   ///< summed over ranks: from each item to that rank's next question
  double total_seconds = 0;  ///< from the first item given out to the last one done

  /// The share of time in which `askers` ranks had nothing to do, 0 to 1.
  double idle_share(int askers) const;
};

class WorkQueue {
 public:
  /// Called on rank 0's process, one call at a time, with what a rank says of the item that it has finished.
  using OnReport = std::function<void(int64_t item, const std::string& report)>;

  /// Gives out `order` from the first to the last (rank 0's counts, as does its `on_report`). Collective; so
  /// is the destructor, which on rank 0 waits for all others. What `on_report` refers to must outlive it.
  WorkQueue(Communicator& world, std::vector<int64_t> order, OnReport on_report);

  /// The next item for this rank, or nothing when all are given out. `report` tells of the item that this
  /// rank had before. An error of on_report is thrown here.
  std::optional<int64_t> next(const std::string& report = "");

  /// On rank 0, when all ranks have been told that nothing is left.
  QueueUse use() const { return use_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Held {
    int64_t item;
    Clock::time_point since;
  };

  std::string answer(int rank, const std::string& report);
  void take_back(const Held& held, const std::string& report, Clock::time_point now);

  // Rank 0's, touched by the mailbox alone.
  std::vector<int64_t> order_;
  OnReport on_report_;
  size_t given_ = 0;
  std::map<int, Held> held_;
  Clock::time_point start_;
  QueueUse use_;

  std::unique_ptr<Mailbox> mailbox_;  // the last member: it is closed before what it refers to goes
};

}  // namespace frameshard
