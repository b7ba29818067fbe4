// results.jsonl: a line for each video of a list. One process writes it, so that hosts need not share a disk
// for it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "launcher/failure.h"
#include "launcher/job.h"

namespace frameshard {

/// How the making of one video ended.
struct UnitResult {
  std::optional<Failure> failure;
  std::optional<double> seconds;  ///< unknown for one that was found complete
  std::optional<int> replica;
};

/// The line, without its end: id, sample of a batch, status, video, seconds, replica, config_hash; of a
/// failure also code and message.
std::string result_line(const Job& job, const Unit& unit, const UnitResult& result);

class Manifest {
 public:
  /// Brings the file into line with what was found: a `done` line for each complete video, a `failed` one for
  /// each request that cannot be made, none for what is made now. Lines of other ids stay. 74 where it cannot
  /// be written.
  explicit Manifest(const Job& job);

  /// Adds a line in one write; 74 where that fails.
  void append(const std::string& line) const;

 private:
  std::filesystem::path file_;
};

}  // namespace frameshard
