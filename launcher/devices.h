// Which device each rank has, and how fast it is: `devices:` of the configuration.
#pragma once

#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/config.h"
#include "launcher/ranks.h"

namespace frameshard {

/// "cpu" or "cuda": what the ranks compute on. 78 where cuda is asked for and is not here, and where
/// `devices` lists both.
std::string device_type(const RunConfig& config);

/// The device of a rank of this host. 78 for a GPU that is not here, with those that are.
at::Device rank_device(const RunConfig& config, const RankPlace& place);

/// The weights of `devices`, one a rank; empty where all are the same. 78 where their number is not `world`.
std::vector<double> rank_speeds(const RunConfig& config, int world);

}  // namespace frameshard
