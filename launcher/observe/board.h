// What rank 0 knows of all ranks, shown as a table and exported as metrics.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <vector>

#include "launcher/observe/exporter.h"
#include "launcher/observe/status.h"

namespace frameshard {

/// Used by one thread at a time.
class Board {
 public:
  /// `watch`: a table on stderr, redrawn in place on a terminal, every 10 s elsewhere. `exporter` may be
  /// null.
  Board(bool watch, std::unique_ptr<Exporter> exporter);
  /// Shows and exports how all ended.
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  /// Takes in the status of a rank, and shows all where it is time to.
  void note(const RankStatus& status);

 private:
  using Clock = std::chrono::steady_clock;

  void show() const;
  std::vector<RankStatus> ranks() const;

  bool watch_, terminal_;
  std::unique_ptr<Exporter> exporter_;
  Clock::time_point next_show_, next_export_;
  std::map<int, RankStatus> ranks_;
};

}  // namespace frameshard
