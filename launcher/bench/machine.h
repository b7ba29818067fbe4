// What `frameshard bench` runs on: what its ranks share, and whether that suffices.
#pragma once

#include <vector>

#include "launcher/bench/report.h"
#include "launcher/bench/setup.h"
#include "launcher/ranks.h"

namespace frameshard {

/// For plan_case(); the same on every rank. Collective.
PlanMachine describe_bench_machine(const BenchSetup& setup, const RankPlace& place, const at::Device& device,
                                   Communicator& world);

/// 71 where a mesh does not fit into the memory that is free on this rank's device now.
void check_memory(const BenchSetup& setup, const PlanMachine& machine, const RankPlace& place,
                  const at::Device& device);

/// One warning where ranks of this host have no core or GPU of their own.
void warn_of_sharing(const PlanMachine& machine, const RankPlace& place);

/// Every rank's. Collective.
std::vector<BenchDevice> gather_devices(const at::Device& device, Communicator& world);

}  // namespace frameshard
