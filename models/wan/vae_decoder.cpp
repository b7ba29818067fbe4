#include "models/common/convolution.h"
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
      at::Tensor padded = with_kept(x, kept);
      padded.narrow(2, 2, shape[2]).copy_(x);
      keep_last(padded, kept);
      // [B, 2C, T, H, W] -> [B, C, 2T, H, W], in memory [B, T, H, W, 2, C] -> [B, T, 2, H, W, C]
      x = channels_last(convolve(up.time, padded, 1, 0))
              .permute({0, 2, 3, 4, 1})
              .view({shape[0], shape[2], shape[3], shape[4], 2, shape[1]})
              .permute({0, 1, 4, 2, 3, 5})
              .reshape({shape[0], 2 * shape[2], shape[3], shape[4], shape[1]})
              .permute({0, 4, 1, 2, 3});
    }
  }
  return each_frame(x, [&](const at::Tensor& frames) {
    const at::Tensor wide =
        at::_upsample_nearest_exact2d(frames, at::IntArrayRef{2 * frames.size(2), 2 * frames.size(3)});
    return convolve(up.spatial, wide, 1, 1);
  });
}

at::Tensor Decoder::operator()(const at::Tensor& latent, FrameCache& cache) const {
  at::Tensor x = middle_(causal_conv(conv_in_, latent, cache.next()), cache);
  for (const Level& level : levels_) {
    for (const ResidualBlock& block : level.blocks) x = block(x, cache);
    if (level.up.present) x = upsample(level.up, x, cache);
  }
  return norm_silu_causal_conv(norm_out_, conv_out_, x, cache.next());
}

}  // namespace frameshard::wan
