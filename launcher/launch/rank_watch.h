// The ranks of one node, as their launcher sees them: which one has ended first. mpirun, whose children they
// are, only says with what code.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <poll.h>

namespace frameshard {

/// The variable that names the directory in which the ranks of a node sign in.
inline constexpr const char* ranks_directory_variable = "FRAMESHARD_RANKS";

/// Called by a rank, at its start: its file in that directory, <rank>, holds its process id and its host.
/// Does nothing where the variable is not set.
void sign_in(const std::string& rank);
/// Called by a rank that has said why it fails: a launcher need not guess then.
void note_reported();

class RankWatch {
 public:
  /// Makes the directory.
  explicit RankWatch(std::filesystem::path directory);
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  const std::filesystem::path& directory() const { return directory_; }
  /// What becomes readable when one of them ends.
  void add_descriptors(std::vector<pollfd>& waiting) const;
  /// Looks for ranks that have come, and for the first one that has ended: "rank 3 (host b)", or empty.
  const std::string& first_ended();
  /// Whether one has said why it failed.
  bool reported() const;

 private:
  std::filesystem::path directory_;
  struct Process {
    int descriptor;  // -1 where it could not be opened
    std::string host;
  };
  std::map<std::string, Process> ranks_;  // by number; a file is read once
  std::string first_ended_;
};

}  // namespace frameshard
