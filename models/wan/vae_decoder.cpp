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
      // [B, 2C, T, H, W] -> [B, C, 2T, H, W], in memory [B, T, H, W, 2, C] -> [B, T, 2, H, W, C]
      x = channels_last(causal_conv(up.time, x, kept))
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

namespace {

Rows widened(Rows rows, int64_t by, int64_t height) {
  return {std::max<int64_t>(0, rows.begin - by), std::min(height, rows.end + by)};
}

// Rows of half the height of which doubling makes these.
Rows halved(Rows rows) {
  return {rows.begin / 2, (rows.end + 1) / 2};
}

Rows doubled(Rows rows) {
  return {2 * rows.begin, 2 * rows.end};
}

// `wanted` of x, which has the rows `have`.
at::Tensor crop(const at::Tensor& x, Rows have, Rows wanted) {
  if (have.count() == wanted.count()) return x;
  return channels_last(x.narrow(3, wanted.begin - have.begin, wanted.count()));
}

}  // namespace

DecoderBand Decoder::band(Rows rows, int64_t height) const {
  const size_t n = levels_.size();
  DecoderBand band{.in = std::vector<Rows>(n), .out = std::vector<Rows>(n), .picture = rows};
  for (size_t i = 1; i < n; ++i) {
    height *= 2;
    band.picture = doubled(band.picture);
  }
  Rows needed = widened(band.picture, 1, height);  // the last convolution
  for (size_t i = n; i-- > 0;) {
    band.out[i] = needed;
    band.in[i] = widened(needed, 2 * int64_t(levels_[i].blocks.size()), height);
    needed = halved(widened(band.in[i], 1, height));  // the convolution after doubling
    height /= 2;
  }
  return band;
}

at::Tensor Decoder::operator()(const at::Tensor& latent, const DecoderBand& band, FrameCache& cache) const {
  at::Tensor x = middle_(causal_conv(conv_in_, latent, cache.next()), cache);  // sees the whole picture
  Rows have{0, latent.size(3)};
  for (size_t i = 0; i < levels_.size(); ++i) {
    x = crop(x, have, band.in[i]);
    for (const ResidualBlock& block : levels_[i].blocks) x = block(x, cache);
    x = crop(x, band.in[i], band.out[i]);
    have = band.out[i];
    if (!levels_[i].up.present) continue;
    x = upsample(levels_[i].up, x, cache);
    have = doubled(have);
  }
  return crop(norm_silu_causal_conv(norm_out_, conv_out_, x, cache.next()), have, band.picture);
}

}  // namespace frameshard::wan
