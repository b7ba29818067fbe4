// Ends a process that waits for other ranks longer than a limit: nothing else would, where a firewall drops
// packets.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace frameshard {

class Watchdog {
 public:
  /// `late` runs on a thread of its own, with what was waited for; it must end the process.
  Watchdog(double seconds, std::function<void(const std::string& what)> late);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Starts to wait for `what`: the limit counts anew.
  void wait_for(const std::string& what);
  /// Nothing is waited for.
  void rest();

 private:
  void watch();

  std::chrono::steady_clock::duration limit_;
  std::function<void(const std::string&)> late_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string what_;
  std::chrono::steady_clock::time_point since_;
  bool waiting_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace frameshard
