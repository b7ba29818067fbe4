#include "core/phase.h"

#include <fmt/format.h>

namespace frameshard {
namespace {

thread_local std::string phase = "start";
thread_local int64_t phase_step = 0, phase_steps = 0;

}  // namespace

void set_phase(const std::string& name, int64_t step, int64_t steps) {
  phase = name;
  phase_step = step, phase_steps = steps;
}

std::string current_phase() {
  return phase_steps > 0 ? fmt::format("{} {}/{}", phase, phase_step, phase_steps) : phase;
}

}  // namespace frameshard
