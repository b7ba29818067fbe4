// What a run shows and writes of its course.
#pragma once

#include <string>

namespace frameshard {

struct ObserveOptions {
  bool watch = false;      ///< a table of all ranks, on rank 0's stderr
  bool profile = false;    ///< trace.json beside each video
  std::string prometheus;  ///< a file, or a port of 127.0.0.1, for metrics; empty: none

  /// The ranks tell rank 0 how they are.
  bool posts() const { return watch || !prometheus.empty(); }
};

}  // namespace frameshard
