#include "core/stop.h"

#include <csignal>

namespace frameshard {
namespace {

volatile std::sig_atomic_t requested = 0;

void request_stop(int signal, int flags) {
  struct sigaction action {};
  action.sa_handler = [](int) { requested = 1; };
  action.sa_flags = flags;
  sigaction(signal, &action, nullptr);
}

}  // namespace

void stop_on_sigusr1() {
  request_stop(SIGUSR1, SA_RESTART);
}

void stop_on_sigterm() {
  request_stop(SIGTERM, SA_RESTART | int(SA_RESETHAND));
}

bool stop_requested() {
  return requested != 0;
}

}  // namespace frameshard
