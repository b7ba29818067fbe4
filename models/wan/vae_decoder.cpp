#include "models/wan/vae.h"

namespace frameshard::wan {

void Decoder::list(WeightList& weights, const VaeConfig& config) {
  // Widths from the latents to the pixels: the multipliers reversed, the widest twice.
  std::vector<int64_t> widths{config.decoder_dim * config.multipliers.back()};
  for (auto m = config.multipliers.rbegin(); m != config.multipliers.rend(); ++m) {
    widths.push_back(config.decoder_dim * *m);
  }
  weights.add_layer("decoder.conv_in", {widths[0], config.latent_channels, 3, 3, 3}, conv_in_);
  middle_.list(weights, "decoder.mid_block", widths[0]);
  levels_.resize(config.multipliers.size());
  for (size_t i = 0; i < levels_.size(); ++i) {
    Level& level = levels_[i];
    const std::string name = fmt::format("decoder.up_blocks.{}.", i);
    const int64_t out = widths[i + 1];
    int64_t in = i > 0 ? widths[i] / 2 : widths[i];  // each upsampling halves the width
    level.blocks.resize(size_t(config.residual_blocks) + 1);
    for (size_t j = 0; j < level.blocks.size(); ++j, in = out) {
      level.blocks[j].list(weights, fmt::format("{}resnets.{}", name, j), in, out);
    }
    level.up.present = i + 1 < levels_.size();
    if (!level.up.present) continue;
    level.up.changes_time = config.halves_time[config.halves_time.size() - 1 - i];
    weights.add_layer(name + "upsamplers.0.resample.1", {out / 2, out, 3, 3}, level.up.spatial);
    if (level.up.changes_time)
      weights.add_layer(name + "upsamplers.0.time_conv", {2 * out, out, 3, 1, 1}, level.up.time);
  }
  weights.add("decoder.norm_out.gamma", {widths.back(), 1, 1, 1}, norm_out_);
  weights.add_layer("decoder.conv_out", {3, widths.back(), 3, 3, 3}, conv_out_);
}

at::Tensor Decoder::upsample(const Resample& up, const at::Tensor& input, FrameCache& cache) const {
  at::Tensor x = input;
  if (up.changes_time) {
    at::Tensor& kept = cache.next();
    auto shape = x.sizes().vec();
    if (!kept.defined()) {
      // The first latent frame becomes one frame: not doubled, and not seen by the next, which follows two of
      // zeros.
      shape[2] = 2;
      kept = at::zeros(shape, x.options());
    } else {
      const at::Tensor padded = at::cat({kept, x}, 2);
      kept = padded.narrow(2, padded.size(2) - 2, 2).clone();
      // [B, 2C, T, H, W] -> [B, C, 2T, H, W]
      x = at::conv3d(padded, up.time.weight, up.time.bias)
              .view({shape[0], 2, shape[1], shape[2], shape[3], shape[4]})
              .permute({0, 2, 3, 1, 4, 5})
              .reshape({shape[0], shape[1], 2 * shape[2], shape[3], shape[4]});
    }
  }
  return each_frame(x, [&](const at::Tensor& frames) {
    const at::Tensor wide =
        at::_upsample_nearest_exact2d(frames, at::IntArrayRef{2 * frames.size(2), 2 * frames.size(3)});
    return at::conv2d(wide, up.spatial.weight, up.spatial.bias, 1, 1);
  });
}

at::Tensor Decoder::operator()(const at::Tensor& latent, FrameCache& cache) const {
  at::Tensor x = middle_(causal_conv(conv_in_, latent, cache.next()), cache);
  for (const Level& level : levels_) {
    for (const ResidualBlock& block : level.blocks) x = block(x, cache);
    if (level.up.present) x = upsample(level.up, x, cache);
  }
  return causal_conv(conv_out_, at::silu(channel_norm(x, norm_out_)), cache.next());
}

}  // namespace frameshard::wan
