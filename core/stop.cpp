#include "core/stop.h"

#include <csignal>
#include <initializer_list>
#include <initializer_list>

namespace frameshard {
namespace {

volatile std::sig_atomic_t requested = 0;

}  // namespace

void stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { requested = 1; };
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

bool stop_requested() {
  return requested != 0;
}

}  // namespace frameshard
