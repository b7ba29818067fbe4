// What the launcher tells the ranks through their environment.
#pragma once

#include <filesystem>

#include "launcher/launch/options.h"
#include "launcher/launch/process.h"

namespace frameshard {

/// Where the ranks of one start have their output files, each in a folder of its own.
std::filesystem::path log_directory(const LaunchOptions& options, int attempt);

/// Variables for mpirun and for the daemons of other nodes: which streams go where, and what must not be
/// inherited from an outer launcher. `ranks`: where this node's ranks sign in (rank_watch.h).
Environment rank_environment(const LaunchOptions& options, int attempt, const std::filesystem::path& ranks);

}  // namespace frameshard
