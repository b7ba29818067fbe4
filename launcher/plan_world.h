// How many ranks `frameshard plan` plans for, and on how many nodes.
#pragma once

#include <string>

#include "core/config.h"
#include "launcher/commands/commands.h"

namespace frameshard {

struct PlanWorld {
  int ranks = 1;
  int ranks_per_node = 1;
  std::string source;  ///< "--world", "SLURM_NTASKS", ...: who said so

  /// "64 ranks on 8 nodes, from SLURM_NTASKS"
  std::string text() const;
};

/// From the command line, else from the Slurm job around this process, else one rank. 64 where numbers do not
/// fit together or a variable is no number.
PlanWorld plan_world(const PlanOptions& options);
/// Where nobody has said so: a rank for each entry of `devices`, if there are any.
void count_devices(PlanWorld& world, const RunConfig& config);

}  // namespace frameshard
