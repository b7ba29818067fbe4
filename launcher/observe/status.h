// How a rank is, as it tells rank 0.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace frameshard {

struct RankStatus {
  int rank = 0, replica = 0;
  std::string host, device;             ///< "cuda:1"
  std::string phase = "start";          ///< core/phase.h, without its numbers
  int64_t step = 0, steps = 0;          ///< done, and to do, of the video that it makes or has made last
  double step_seconds = 0;              ///< of the last step; 0: none yet
  double step_median_seconds = 0;       ///< of the video's steps so far
  int64_t steps_total = 0;              ///< done since the start
  int64_t steps_planned = 0;            ///< of all videos that it has taken so far
  int64_t videos_done = 0;              ///< by its replica; counted by the replica's first rank alone
  int64_t videos_failed = 0;            ///< likewise
  int64_t cp_bytes = 0, cfg_bytes = 0;  ///< sent to other ranks since the start
  double bytes_per_second = 0;          ///< sent, since the status before
  int64_t memory_bytes = 0;             ///< allocated on a GPU, resident on a CPU
  int64_t memory_peak_bytes = 0;        ///< since the start
  std::optional<double>
      busy;  ///< since the status before: of the GPU, 0 to 1; of a CPU rank's process, 1 a core
};

/// One line of JSON, and back.
std::string to_text(const RankStatus& status);
RankStatus status_from(const std::string& text);

}  // namespace frameshard
