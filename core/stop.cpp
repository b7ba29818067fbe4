#include "core/stop.h"

#include <csignal>
#include <string_view>

#include <unistd.h>

namespace frameshard {
namespace {

volatile std::sig_atomic_t requested = 0;  // the signal

void request_stop(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

void note(int signal) {
  requested = signal;
}

void note_once(int signal) {
  requested = signal;
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  if (signal != SIGINT) return;
  constexpr std::string_view line = "stopping after this step; a second ^C ends at once\n";
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nobody reads it
}

}  // namespace

void stop_on_sigusr1() {
  request_stop(SIGUSR1, note);
}

void stop_on_sigterm_and_sigint() {
  request_stop(SIGTERM, note_once);
  request_stop(SIGINT, note_once);
}

bool stop_requested() {
  return requested != 0;
}

bool interrupted() {
  return requested == SIGINT;
}

}  // namespace frameshard
