// What this thread's rank is doing now, for error reports and for those who watch: "denoise 17/50".
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace frameshard {

void set_phase(const std::string& name, int64_t step = 0, int64_t steps = 0);
std::string current_phase();

/// Hears of each phase of this thread from now on; an empty one ends that.
using PhaseListener = std::function<void(const std::string& name, int64_t step, int64_t steps)>;
void set_phase_listener(PhaseListener listener);

}  // namespace frameshard
