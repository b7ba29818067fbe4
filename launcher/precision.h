// Element types that a device has no instructions for.
#pragma once

#include <ATen/ATen.h>

namespace frameshard {

/// A warning where `dtype` is bfloat16 and `device` is a CPU that does not multiply it. Whether there was
/// one.
bool warn_of_slow_dtype(at::ScalarType dtype, const at::Device& device);

}  // namespace frameshard
