// Models by name that need no files: sizes of published ones with random weights, for measurements.
#pragma once

#include <memory>
#include <string>

#include "models/checkpoint.h"

namespace frameshard {

struct Preset {
  std::string name;               ///< "wan-1.3b"
  int64_t width, height, frames;  ///< of the video that it is usually measured with
  int64_t text_tokens;
  std::unique_ptr<DenoiserSource> (*open)();
};

/// Null for a name that is none.
const Preset* find_preset(const std::string& name);
/// "wan-middle, wan-1.3b, ..."
std::string preset_names();

}  // namespace frameshard
