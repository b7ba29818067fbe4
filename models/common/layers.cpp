#include "models/common/layers.h"

#include <cmath>

#include <c10/core/GradMode.h>

#include "models/common/adapted_linear.h"
#include "models/common/float8.h"
#include "models/common/fused.h"
#include "models/common/products.h"

namespace frameshard {
namespace {

// Without low-rank changes.
at::Tensor apply_base(const Linear& layer, const at::Tensor& x) {
  return layer.scale.defined() ? apply_float8(layer, x) : linear(x, layer.weight, layer.bias);
}

}  // namespace

at::Tensor apply(const Linear& layer, const at::Tensor& x) {
  if (layer.adapters.empty()) return apply_base(layer, x);
  return apply_adapted(layer, x, [&](const at::Tensor& rows) { return apply_base(layer, rows); });
}

at::Tensor apply_gelu(const Linear& layer, const at::Tensor& x) {
  if (!x.is_cuda() || layer.scale.defined() || x.numel() == 0 || !layer.bias.defined() ||
      !layer.adapters.empty() || c10::GradMode::is_enabled()) {
    return gelu_tanh(apply(layer, x));
  }
  // On CUDA this operation's GELU is the one by tanh; on a CPU it would be the exact one.
  const at::Tensor rows = at::_addmm_activation(layer.bias, x.reshape({-1, x.size(-1)}), layer.weight.t(),
                                                /*beta=*/1, /*alpha=*/1, /*use_gelu=*/true);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = layer.weight.size(0);
  return rows.view(shape);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return at::rms_norm(x, {x.size(-1)}, weight, eps);
}

at::Tensor channel_norm(const at::Tensor& x, const at::Tensor& gamma) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor length = at::linalg_vector_norm(wide, 2, at::IntArrayRef{1}, true).clamp_min(1e-12);
  return (wide / length).to(x.scalar_type()) * std::sqrt(double(x.size(1))) * gamma;
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
