// What this thread's rank is doing now, for error reports: "denoise 17/50".
#pragma once

#include <cstdint>
#include <string>

namespace frameshard {

void set_phase(const std::string& name, int64_t step = 0, int64_t steps = 0);
std::string current_phase();

}  // namespace frameshard
