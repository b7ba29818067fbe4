// Versions of the engine and of what it was built with and runs on.
#pragma once

#include <string>

namespace frameshard {

std::string engine_version();
std::string libtorch_version();

}  // namespace frameshard
