#include "models/common/layers.h"

#include <cmath>

namespace frameshard {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return at::rms_norm(x, {x.size(-1)}, weight, eps);
}

at::Tensor layer_norm_float32(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                              double eps) {
  return at::layer_norm(x.to(at::kFloat), {x.size(-1)}, weight, bias, eps);
}

at::Tensor timestep_sinusoid(const at::Tensor& timestep, int64_t dim) {
  const int64_t half = dim / 2;
  const auto options = timestep.options().dtype(at::kFloat);
  const at::Tensor exponent = at::arange(half, options) * (-std::log(10000.0)) / double(half);
  const at::Tensor angles = timestep.to(at::kFloat).unsqueeze(1) * exponent.exp().unsqueeze(0);
  return at::cat({angles.cos(), angles.sin()}, -1);
}

at::Tensor patchify(const at::Tensor& video, at::IntArrayRef patch) {
  const auto s = video.sizes();
  const int64_t f = s[2] / patch[0], h = s[3] / patch[1], w = s[4] / patch[2];
  return video.reshape({s[0], s[1], f, patch[0], h, patch[1], w, patch[2]})
      .permute({0, 2, 4, 6, 1, 3, 5, 7})  // [B, f, h, w, C, pf, ph, pw]
      .reshape({s[0], f * h * w, s[1] * patch[0] * patch[1] * patch[2]});
}

at::Tensor unpatchify(const at::Tensor& tokens, at::IntArrayRef patch, at::IntArrayRef grid) {
  const int64_t batch = tokens.size(0);
  return tokens.reshape({batch, grid[0], grid[1], grid[2], patch[0], patch[1], patch[2], -1})
      .permute({0, 7, 1, 4, 2, 5, 3, 6})  // [B, C, f, pf, h, ph, w, pw]
      .reshape({batch, -1, grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2]});
}

}  // namespace frameshard
