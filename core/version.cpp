#include "core/version.h"

#include <torch/version.h>

namespace frameshard {

std::string engine_version() {
  return FRAMESHARD_VERSION;
}
std::string libtorch_version() {
  return TORCH_VERSION;
}

}  // namespace frameshard
