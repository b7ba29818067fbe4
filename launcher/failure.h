// How a failure reaches the user: once, with the rank, the host and what it was doing, and with an exit code.
#pragma once

#include <filesystem>
#include <string>

#include "core/failure.h"

namespace frameshard {

/// A rank's failure whose message is already the whole line for the user.
struct RankFailure : Error {
  using Error::Error;
};

/// The line "FAILED rank 3 (host b, cuda:1) at denoise 17/50: message".
std::string failure_line(const Failure& failure, int rank, int world, const std::string& device,
                         const std::string& phase);

/// Prints why this rank fails. Under `launch` its launcher is told that it has been said.
void print_failure(const std::string& line);

/// The variable that names a file for the last line of a job that is stopped.
inline constexpr const char* last_line_variable = "FRAMESHARD_LAST_LINE";

/// Prints the last line of a job that is stopped. Under `launch` the launcher does, when all ranks have
/// ended: mpirun may lose what they say while it is told to end too.
void print_last_line(const std::string& line);

/// Writes error.rankN.json into the run's directory; says nothing where it cannot.
void write_failure_file(const std::filesystem::path& directory, const Failure& failure, int rank,
                        const std::string& phase);

/// True for one rank of a job alone, of all that fail at the same moment and so must not all report it.
/// Shared through a file in `directory`; `token` is the same on all ranks.
class FailureClaim {
 public:
  FailureClaim(const std::filesystem::path& directory, const std::string& token);
  bool mine() const { return mine_; }
  void release() const;

 private:
  std::filesystem::path file_;
  bool mine_;
};

}  // namespace frameshard
