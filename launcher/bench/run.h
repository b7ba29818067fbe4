// All measurements of `frameshard bench`, one after another.
#pragma once

#include "launcher/bench/report.h"
#include "launcher/bench/setup.h"

namespace frameshard {

/// Loads the model on every rank and measures each case on the first ranks of `world`. Collective; the report
/// is whole on the first rank.
BenchReport measure_all(const BenchSetup& setup, const PlanMachine& machine, const at::Device& device,
                        Communicator& world);

}  // namespace frameshard
