#include "core/rng.h"

#include <ATen/CPUGeneratorImpl.h>

namespace frameshard {

at::Tensor initial_noise(at::IntArrayRef shape, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::TensorOptions().dtype(at::kFloat));
}

}  // namespace frameshard
