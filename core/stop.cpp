#include "core/stop.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <thread>

#include <pthread.h>
#include <unistd.h>

namespace frameshard {
namespace {

std::atomic<int> requested = 0;      // the signal
std::atomic<bool> in_order = false;  // whether SIGTERM and SIGINT are requests, too

// Not ^C where it is ignored: a shell does that for what it starts in the background.
sigset_t taken_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1), sigaddset(&set, SIGTERM);
  struct sigaction interrupt {};
  sigaction(SIGINT, nullptr, &interrupt);
  if (interrupt.sa_handler != SIG_IGN) sigaddset(&set, SIGINT);
  return set;
}

void take(int signal) {
  if (signal != SIGUSR1 && !in_order.exchange(false)) end_by_signal(signal);
  requested = signal;
  if (signal != SIGINT) return;
  // Behind a progress line, and the terminal's own "^C".
  const std::string_view line = "\nstopping after this step; a second ^C ends at once\n";
  const size_t from = isatty(STDERR_FILENO) ? 0 : 1;
  if (write(STDERR_FILENO, line.data() + from, line.size() - from) < 0) return;  // nobody reads it
}

void take_signals(const sigset_t& set) {
  for (int signal = 0; sigwait(&set, &signal) == 0;) take(signal);
}

void start_taking() {
  const sigset_t set = taken_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([set] { take_signals(set); }).detach();
}

}  // namespace

void stop_on_sigusr1() {
  static std::once_flag once;
  std::call_once(once, start_taking);
}

void stop_on_sigterm_and_sigint() {
  in_order = true;
}

bool stop_requested() {
  return requested != 0;
}

bool interrupted() {
  return requested == SIGINT;
}

void end_by_signal(int signal) {
  std::signal(signal, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  raise(signal);
  std::_Exit(128 + signal);  // one that is ignored
}

}  // namespace frameshard
