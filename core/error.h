// Errors that end a run: each carries the exit code that the process will end with.
#pragma once

#include <stdexcept>
#include <string>

#include <fmt/format.h>

namespace frameshard {

/// Exit codes of the program, the same under every launcher (docs/interface.md).
enum class ExitCode : int {
  ok = 0,
  internal = 1,        ///< a defect of ours, never a user's mistake
  usage = 64,          ///< wrong command line
  bad_data = 65,       ///< weights or data that cannot be used
  missing_file = 66,   ///< a file that should be there is not
  unavailable = 69,    ///< rendezvous or launcher failed
  out_of_memory = 71,  ///< host or device memory
  io = 74,             ///< disk full, unwritable, existing output
  stopped = 75,        ///< asked to stop; resumable
  disagree = 76,       ///< ranks do not agree on config, weights or world size
  refused = 77,        ///< token refused
  config = 78,         ///< configuration or topology
  not_finite = 80,     ///< NaN or Inf in a result
  hang = 124,          ///< a rank stopped answering
};

/// The one exception type of the engine. `what()` says who, what, how much, and what to do next.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

/// Throws Error with a formatted message.
template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// For conditions that only a defect of ours can break.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw Error(ExitCode::internal, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace frameshard
