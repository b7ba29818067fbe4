#include "models/common/convolution.h"
#include "models/wan/vae.h"

namespace frameshard::wan {

void Encoder::list(WeightList& weights, const VaeConfig& config) {
  int64_t width = config.encoder_dim;
  weights.add_layer("encoder.conv_in", {width, 3, 3, 3, 3}, conv_in_);
  levels_.resize(config.multipliers.size());
  int index = 0;  // blocks and downsamplings are numbered in one row
  for (size_t i = 0; i < levels_.size(); ++i) {
    Level& level = levels_[i];
    const int64_t out = config.encoder_dim * config.multipliers[i];
    level.blocks.resize(size_t(config.residual_blocks));
    for (ResidualBlock& block : level.blocks) {
      block.list(weights, fmt::format("encoder.down_blocks.{}", index++), width, out);
      width = out;
    }
    level.down.present = i + 1 < levels_.size();
    if (!level.down.present) continue;
    level.down.changes_time = config.halves_time[i];
    const std::string name = fmt::format("encoder.down_blocks.{}.", index++);
    weights.add_layer(name + "resample.1", {out, out, 3, 3}, level.down.spatial);
    if (level.down.changes_time) weights.add_layer(name + "time_conv", {out, out, 3, 1, 1}, level.down.time);
  }
  middle_.list(weights, "encoder.mid_block", width);
  weights.add("encoder.norm_out.gamma", {width, 1, 1, 1}, norm_out_);
  weights.add_layer("encoder.conv_out", {2 * config.latent_channels, width, 3, 3, 3}, conv_out_);
}

at::Tensor Encoder::downsample(const Resample& down, const at::Tensor& input, FrameCache& cache) const {
  const at::Tensor x = each_frame(input, [&](const at::Tensor& frames) {
    // Padded on the right and at the bottom only.
    return convolve(down.spatial, channels_last(at::constant_pad_nd(frames, {0, 1, 0, 1})), 2, 0);
  });
  if (!down.changes_time) return x;
  at::Tensor& kept = cache.next();
  const at::Tensor before = kept;
  kept = x.narrow(2, x.size(2) - 1, 1).clone();
  if (!before.defined()) return x;  // the first frame stays one frame
  return convolve(down.time, channels_last(at::cat({before, x}, 2)), {2, 1, 1}, 0);
}

at::Tensor Encoder::operator()(const at::Tensor& frames, FrameCache& cache) const {
  at::Tensor x = causal_conv(conv_in_, frames, cache.next());
  for (const Level& level : levels_) {
    for (const ResidualBlock& block : level.blocks) x = block(x, cache);
    if (level.down.present) x = downsample(level.down, x, cache);
  }
  x = middle_(x, cache);
  return norm_silu_causal_conv(norm_out_, conv_out_, x, cache.next());
}

}  // namespace frameshard::wan
