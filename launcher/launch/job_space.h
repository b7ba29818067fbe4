// The directories that one job's MPI uses on a node, removed with all that a killed process left in them.
#pragma once

#include <filesystem>
#include <string>

namespace frameshard {

class JobSpace {
 public:
  /// Makes both directories for this user alone; `id` is random, and the same on all nodes of a job. 74 where
  /// one cannot be made. Two nodes of a job may share a machine, and so a directory.
  /// Whose launcher was killed, they stay: those of this user that nobody has any more are removed first.
  explicit JobSpace(const std::string& id);
  ~JobSpace();
  JobSpace(const JobSpace&) = delete;
  JobSpace& operator=(const JobSpace&) = delete;

  /// Session directories and the agent's socket: "/tmp/frameshard-<id>". Short, since it names a socket.
  const std::filesystem::path& scratch() const { return scratch_; }
  /// Segments of shared memory: "/dev/shm/frameshard-<id>".
  const std::filesystem::path& shared_memory() const { return shared_memory_; }

 private:
  std::filesystem::path scratch_, shared_memory_;
  int lock_ = -1;  // held while it is in use
};

}  // namespace frameshard
