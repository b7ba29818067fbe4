// A job's configuration, looked at on all ranks of the doctor: can it be read, is it the same, does it fit?
#pragma once

#include <string>
#include <vector>

#include "launcher/doctor/finding.h"
#include "launcher/ranks.h"

namespace frameshard {

struct ConfigReport {
  Findings findings;
  std::string device = "auto", backend = "auto";  ///< what the configuration wants
};

/// Collective over `world`. For one process alone the ranks are those that the configuration's sizes say.
ConfigReport check_config(const std::string& config, const std::vector<std::string>& overrides,
                          const RankPlace& place, Communicator& world);

}  // namespace frameshard
