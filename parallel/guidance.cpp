#include "parallel/guidance.h"

namespace frameshard {

at::Tensor combine(const at::Tensor& cond, const at::Tensor& uncond, double scale) {
  return uncond + scale * (cond - uncond);
}

}  // namespace frameshard
