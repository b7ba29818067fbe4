// What a rank tells of its course, for --profile, --watch and --prometheus.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "launcher/observe/board.h"
#include "launcher/observe/meter.h"
#include "launcher/observe/options.h"
#include "launcher/observe/profile.h"

namespace frameshard {

struct ObservedRank {
  at::Device device;
  int replica = 0;
};

/// One rank's; belongs to its thread, whose phases (core/phase.h) it follows. With --watch or --prometheus a
/// thread of its own tells rank 0 twice a second how the rank is, so that the work never waits for that.
/// Without options it does nothing.
class Observer {
 public:
  /// Collective over `world`, which must outlive it; so is the destructor, which on rank 0 waits for all
  /// others and shows how all ended, unless a failure is on its way. `exporter` is rank 0's, or null.
  Observer(Communicator& world, const ObserveOptions& options, const ObservedRank& rank,
           std::unique_ptr<Exporter> exporter);
  ~Observer();
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

  bool watches() const { return watches_; }

  void video_begun(int64_t steps);
  /// A step is done; bytes sent since the start.
  void step_done(double seconds, int64_t cp_bytes, int64_t cfg_bytes);
  /// Called by the first rank of the replica.
  void video_ended(bool failed);
  /// The most memory of a phase that has ended.
  void phase_peak(int64_t bytes);

  /// Before the video gets its name. Collective over the replica.
  void write_trace(Communicator& replica, const std::filesystem::path& directory);

 private:
  template <class Change>
  void change(Change change);
  void post_until_end(int world_size);
  void post();

  bool watches_;
  std::optional<Profile> profile_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool ending_ = false;           // under mutex_
  RankStatus status_;             // under mutex_
  std::vector<double> steps_;     // of the video; this rank's thread alone
  Meter meter_;                   // the poster's
  std::unique_ptr<Board> board_;  // rank 0's
  std::unique_ptr<Mailbox> mailbox_;
  std::thread poster_;
};

/// Throws 76 where ranks have different options: their collectives would not match.
void check_same_options(const ObserveOptions& options, Communicator& world);

}  // namespace frameshard
