// What rank 0 keeps of a job's videos: the list of results, the failures, and how busy the replicas were.
#pragma once

#include "launcher/generate.h"
#include "launcher/manifest.h"
#include "parallel/work_queue.h"

namespace frameshard {

class Ledger {
 public:
  /// Says what is kept, made again or cannot be made, and brings results.jsonl into line.
  explicit Ledger(const Job& job);

  /// Takes in the line (result_line) of a unit that was just made or has failed.
  void note(size_t unit, const std::string& line);

  /// Logs how busy the replicas were and writes queue.json; for lists.
  void close(const QueueUse& use, int replicas) const;

  /// Exit code and summary.
  Generated outcome() const;

 private:
  void announce() const;

  const Job& job_;
  std::optional<Manifest> manifest_;    // of a list
  std::map<size_t, Failure> failures_;  // by unit
};

}  // namespace frameshard
