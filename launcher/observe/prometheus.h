// The ranks of a run as metrics for Prometheus.
#pragma once

#include <span>
#include <string>

#include "launcher/observe/status.h"

namespace frameshard {

/// Prometheus' text exposition format, version 0.0.4. Every sample is labelled rank, host, device, replica.
std::string prometheus_text(std::span<const RankStatus> ranks);

}  // namespace frameshard
