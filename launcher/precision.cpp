#include "launcher/precision.h"

#include "core/cpu.h"
#include "core/host.h"
#include "core/log.h"

namespace frameshard {

bool warn_of_slow_dtype(at::ScalarType dtype, const at::Device& device) {
  if (dtype != at::kBFloat16 || !device.is_cpu() || cpu_multiplies_bfloat16()) return false;
  log::warning(
      "bfloat16 halves the memory, but {} has neither AVX512-BF16 nor AMX: it will be slower than float32",
      cpu_name());
  return true;
}

}  // namespace frameshard
