// Do all ranks run the same versions of everything?
#pragma once

#include <map>

#include "launcher/doctor/finding.h"

namespace frameshard {

/// One rank's versions by what they are of: {"LibTorch", "2.9.0"}.
struct RankVersions {
  int rank = 0;
  std::string host;
  std::map<std::string, std::string> of;
};

/// Of this process: engine, LibTorch, MPI, and CUDA and NCCL where a GPU is.
std::map<std::string, std::string> own_versions();

/// One finding for each that differs, with who has which; else a single one.
Findings check_versions(const std::vector<RankVersions>& ranks);

}  // namespace frameshard
