#include "launcher/launch/verdict.h"

#include <csignal>
#include <cstring>

#include <fmt/format.h>
#include <sys/wait.h>

#include "core/error.h"
#include "launcher/launch/process.h"

namespace frameshard {
namespace {

constexpr const char* kept = "what was finished before is kept, and the same command goes on with the rest";

JobVerdict stopped_in_order(const JobEnd& end) {
  // As a shell expects of ^C.
  const int code = end.stop_signal == SIGINT ? 128 + SIGINT : int(ExitCode::stopped);
  return {code,
          end.last_line.empty() ? "FAILED: stopped by a signal; the same command goes on" : end.last_line};
}

JobVerdict ended_by_signal(const JobEnd& end, int signal) {
  const bool mpirun = WIFSIGNALED(*end.status);
  const std::string who = mpirun ? "mpirun" : end.first_ended.empty() ? "a rank" : end.first_ended;
  const char* by = signal == SIGKILL ? ", by a person, a batch system or for lack of memory (`dmesg`)" : "";
  return {128 + signal, fmt::format("FAILED: {} was ended by signal {} ({}){}; {}", who, signal,
                                    strsignal(signal), by, kept)};
}

// Of a rank's own doing, whatever the launcher was sent.
bool is_crash(int signal) {
  return signal == SIGSEGV || signal == SIGABRT || signal == SIGBUS || signal == SIGFPE || signal == SIGILL;
}

}  // namespace

JobVerdict verdict_on(const JobEnd& end) {
  const int code = end.status ? exit_code_of(*end.status) : 0;
  if (code == int(ExitCode::stopped)) return stopped_in_order(end);
  if (is_crash(code - 128)) return ended_by_signal(end, code - 128);
  if (end.stop_signal != 0 && (code != 0 || !end.status)) {
    return {128 + end.stop_signal, fmt::format("FAILED: ended by {}; {}", strsignal(end.stop_signal), kept)};
  }
  // mpirun's own word for a daemon that it cannot hear. A rank that ends before has said why.
  if (code == 1 && end.several_nodes && !end.ranks_met) {
    return {int(ExitCode::unavailable), "FAILED: mpirun ended with 1: " + end.not_met};
  }
  if (end.lost_daemon) return {int(ExitCode::unavailable), "FAILED: " + *end.lost_daemon};
  // At a SIGTERM of its own mpirun ends with 1, which is also a rank's code for a defect. Of other nodes'
  // ranks it is not known whether they have said why.
  if (code == 1 && !end.several_nodes && !end.reported) {
    return {int(ExitCode::unavailable),
            "FAILED: mpirun ended with 1, and no rank has said why: see what it says itself; without a word "
            "it was "
            "sent a signal, and the same command goes on"};
  }
  if (code > 128) return ended_by_signal(end, code - 128);
  return {code, ""};  // a rank that ends by itself has said why
}

}  // namespace frameshard
