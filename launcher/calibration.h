// `weight: auto` of `devices:`: each rank's speed, measured once and kept in a file (launcher/speed_cache.h).
#pragma once

#include <string>
#include <vector>

#include "core/config.h"
#include "launcher/ranks.h"
#include "models/block_timing.h"
#include "parallel/plan.h"

namespace frameshard {

/// Whether the weights of `devices` are auto.
bool measures_speeds(const RunConfig& config);
/// Whether the shares follow the speeds from step to step.
bool rebalances(const RunConfig& config);

/// What a rank is measured with: its part of a block of the largest request.
struct RankBlock {
  at::Device device;
  at::ScalarType dtype;
  BlockShape shape;
  /// Device and threads, host and place on it, dtype and sizes: ranks whose keys are alike are as fast.
  std::string key;
};
RankBlock rank_block(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine,
                     const RankPlace& place);

/// Operations a second -> speeds relative to the fastest, to 3 significant digits; empty where they differ by
/// less than SpeedWatch::drift.
std::vector<double> relative_speeds(const std::vector<double>& rates);

/// The speeds of all ranks, the same on each: from the file where it has all of them, else measured by all
/// ranks at the same time, since they share caches and memory in the job too, and kept. Says so in a line. A
/// file that cannot be used is a warning; so is a rank that cannot be measured, and all are alike then.
/// Collective over `world`.
std::vector<double> measured_speeds(const RunConfig& config, const ModelFacts& model,
                                    const PlanMachine& machine, const RankPlace& place, Communicator& world);

/// The same before there are ranks, where they will be threads of this process: `place` is the first one's.
std::vector<double> speeds_of_threads(const RunConfig& config, const ModelFacts& model,
                                      const PlanMachine& machine, const RankPlace& place);

/// What the file has for ranks of this host, without measuring; a warning where it has not all of them.
std::vector<double> known_speeds(const RunConfig& config, const ModelFacts& model,
                                 const PlanMachine& machine);

}  // namespace frameshard
