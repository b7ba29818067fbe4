#include "core/phase.h"

#include <fmt/format.h>

#include "core/trace.h"

namespace frameshard {
namespace {

thread_local std::string phase = "start";
thread_local int64_t phase_step = 0, phase_steps = 0;
thread_local PhaseListener phase_listener;

}  // namespace

void set_phase(const std::string& name, int64_t step, int64_t steps) {
  phase = name;
  phase_step = step, phase_steps = steps;
  if (TraceRecorder* recorder = TraceRecorder::current()) recorder->enter(current_phase());
  if (phase_listener) phase_listener(name, step, steps);
}

std::string current_phase() {
  return phase_steps > 0 ? fmt::format("{} {}/{}", phase, phase_step, phase_steps) : phase;
}

void set_phase_listener(PhaseListener listener) {
  phase_listener = std::move(listener);
}

}  // namespace frameshard
