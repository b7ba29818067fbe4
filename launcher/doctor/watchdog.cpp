#include "launcher/doctor/watchdog.h"

namespace frameshard {

Watchdog::Watchdog(double seconds, std::function<void(const std::string&)> late)
    : limit_(std::chrono::duration_cast<std::chrono::steady_clock::duration>(
          std::chrono::duration<double>(seconds))),
      late_(std::move(late)),
      thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Watchdog::wait_for(const std::string& what) {
  std::lock_guard lock(mutex_);
  what_ = what, since_ = std::chrono::steady_clock::now(), waiting_ = true;
  changed_.notify_one();
}

void Watchdog::rest() {
  std::lock_guard lock(mutex_);
  waiting_ = false;
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    if (!waiting_) {
      changed_.wait(lock);
    } else if (std::chrono::steady_clock::now() - since_ >= limit_) {
      waiting_ = false;
      const std::string what = what_;
      lock.unlock();
      late_(what);
      lock.lock();
    } else {
      changed_.wait_until(lock, since_ + limit_);
    }
  }
}

}  // namespace frameshard
