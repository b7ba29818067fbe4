// Child processes of a launcher: started so that none outlives it, ended with all that they started.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

namespace frameshard {

using Environment = std::vector<std::pair<std::string, std::string>>;  ///< changes: an empty value unsets

/// Starts a program in a process group of its own, with stdin closed; it gets SIGTERM when this thread's
/// process dies. 69 where it cannot be started (a program that is not there: as its exit code, with a line).
pid_t start_process(const std::vector<std::string>& command, const Environment& changes);

/// The exit code that a shell would show: 128+n for signal n.
int exit_code_of(int wait_status);

/// All processes below this one.
std::vector<pid_t> descendants();
/// Orphans of a killed child become children of this process, so that descendants() finds them.
void adopt_orphans();
/// SIGTERM to all descendants, SIGKILL to those that are left after `grace_seconds`; all are reaped.
void end_descendants(double grace_seconds);

/// Signals of this process as bytes of a pipe that a poll loop reads: SIGCHLD, SIGTERM, SIGINT, SIGHUP,
/// SIGUSR1.
class SignalPipe {
 public:
  SignalPipe();
  ~SignalPipe();
  SignalPipe(const SignalPipe&) = delete;
  SignalPipe& operator=(const SignalPipe&) = delete;
  int descriptor() const;
  /// The signals since the last call.
  std::vector<int> take();
};

}  // namespace frameshard
