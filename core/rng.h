// Noise from a seed.
#pragma once

#include <cstdint>

#include <ATen/ATen.h>

namespace frameshard {

/// Standard normal noise, float32 on the CPU: what torch.randn gives with
/// torch.Generator("cpu").manual_seed(seed). Always drawn whole, so that a result does not depend on the
/// number of ranks.
at::Tensor initial_noise(at::IntArrayRef shape, uint64_t seed);

}  // namespace frameshard
