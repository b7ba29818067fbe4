// What one case of `frameshard bench` gave, and what follows from it. Pure.
#pragma once

#include <optional>
#include <vector>

#include "launcher/bench/meshes.h"
#include "parallel/strategies.h"

namespace frameshard {

struct Measurement {
  BenchCase what;
  AttentionShape attention;
  std::vector<double> step_seconds{};      ///< each timed step, of the slowest rank
  double bytes_sent = 0;                   ///< a step, by the rank that sends most
  std::optional<double> exchange_share{};  ///< of the timed steps, mean over ranks; not known under NCCL
  double activation_bytes = 0;             ///< the most that tensors took beyond those before the first step
};

/// The median over the timed steps.
double seconds_a_step(const Measurement& measurement);

/// Steps of all replicas a second, against one rank that does the same work: the measurement of `baseline_of`
/// in `all`.
double speedup_of(const Measurement& measurement, const std::vector<Measurement>& all);

/// The speed-up a rank.
double efficiency_of(const Measurement& measurement, const std::vector<Measurement>& all);

/// Videos of 50 steps a second, by all replicas together; denoising alone.
double requests_a_second(const Measurement& measurement);

}  // namespace frameshard
