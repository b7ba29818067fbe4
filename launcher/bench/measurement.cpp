#include "launcher/bench/measurement.h"

#include <algorithm>

#include "core/config.h"
#include "core/error.h"

namespace frameshard {

double seconds_a_step(const Measurement& measurement) {
  std::vector<double> sorted = measurement.step_seconds;
  require(!sorted.empty(), "no step of {} was timed", mesh_name(measurement.what.mesh));
  std::sort(sorted.begin(), sorted.end());
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

double speedup_of(const Measurement& measurement, const std::vector<Measurement>& all) {
  const BenchCase wanted = baseline_of(measurement.what);
  const auto baseline = std::find_if(all.begin(), all.end(), [&](auto& each) { return each.what == wanted; });
  require(baseline != all.end(), "nothing to compare {} with", mesh_name(measurement.what.mesh));
  return measurement.what.mesh.dp * seconds_a_step(*baseline) / seconds_a_step(measurement);
}

double efficiency_of(const Measurement& measurement, const std::vector<Measurement>& all) {
  return speedup_of(measurement, all) / measurement.what.mesh.ranks();
}

double requests_a_second(const Measurement& measurement) {
  return measurement.what.mesh.dp /
         (seconds_a_step(measurement) * double(RequestConfig{}.num_inference_steps));
}

}  // namespace frameshard
