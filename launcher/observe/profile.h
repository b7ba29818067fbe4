// trace.json: what the ranks of a replica did while they made a video.
#pragma once

#include <filesystem>

#include "core/trace.h"
#include "parallel/comm/clock.h"

namespace frameshard {

class Profile {
 public:
  /// Records this thread, which is `world`'s rank on `device`, from now on. Collective over `world`.
  Profile(Communicator& world, const std::string& device);

  /// Writes what came since the last file, of all ranks of the replica, as trace.json: its first rank does,
  /// all or nothing. Collective over `replica`, which moves host data.
  void write(Communicator& replica, const std::filesystem::path& directory);

 private:
  TraceProcess process_;
  ClockOffset clock_;
  TraceRecorder recorder_;
};

}  // namespace frameshard
