#include "models/wan/vae.h"

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/io/json_file.h"
#include "models/common/convolution.h"
#include "models/common/fused.h"
#include "models/common/layers.h"

namespace frameshard::wan {

VaeConfig VaeConfig::read(const std::filesystem::path& config_json) {
  const JsonReader json(config_json);
  json.expect<std::string>("_class_name", "AutoencoderKLWan");
  json.expect("is_residual", false);
  json.expect("attn_scales", std::vector<double>{});
  json.expect<int64_t>("patch_size", 1);
  json.expect<int64_t>("scale_factor_temporal", 4);
  json.expect<int64_t>("scale_factor_spatial", 8);
  json.expect<int64_t>("in_channels", 3);
  json.expect<int64_t>("out_channels", 3);
  const auto base = json.get<int64_t>("base_dim");
  VaeConfig config{.encoder_dim = base,
                   .decoder_dim = json.get_or("decoder_base_dim", base),
                   .latent_channels = json.get<int64_t>("z_dim"),
                   .residual_blocks = json.get<int64_t>("num_res_blocks"),
                   .multipliers = json.get<std::vector<int64_t>>("dim_mult"),
                   .halves_time = json.get<std::vector<bool>>("temperal_downsample"),
                   .mean = json.get<std::vector<double>>("latents_mean"),
                   .deviation = json.get<std::vector<double>>("latents_std")};
  const auto halvings = std::count(config.halves_time.begin(), config.halves_time.end(), true);
  if (config.multipliers.size() != 4 || config.halves_time.size() != 3 || halvings != 2 || base < 1 ||
      config.latent_channels < 1 || config.residual_blocks < 1) {
    fail(ExitCode::bad_data,
         "{}: dim_mult needs 4 entries and temperal_downsample 3, two of them true (8x in space, 4x in time)",
         config_json.string());
  }
  const auto channels = size_t(config.latent_channels);
  if (config.mean.size() != channels || config.deviation.size() != channels) {
    fail(ExitCode::bad_data, "{}: latents_mean and latents_std must have z_dim = {} entries",
         config_json.string(), channels);
  }
  return config;
}

at::Tensor& FrameCache::next() {
  if (position_ == slots_.size()) slots_.emplace_back();
  return slots_[position_++];
}

namespace {

// A tensor of two frames more than x, with `kept` in the first two (zeros where there are none yet); the rest
// is to be filled.
at::Tensor with_kept(const at::Tensor& x, const at::Tensor& kept) {
  auto shape = x.sizes().vec();
  shape[2] += 2;
  at::Tensor padded = empty_channels_last(shape, x.options());
  at::Tensor before = padded.narrow(2, 0, 2);
  if (kept.defined()) {
    before.copy_(kept);
  } else {
    before.zero_();
  }
  return padded;
}

// x after two frames of `kept`. What autograd follows is not written into a part of something larger: the
// backward pass would copy the whole gradient for each part.
at::Tensor after_kept(const at::Tensor& x, const at::Tensor& kept) {
  return channels_last(kept.defined() ? at::cat({kept, x}, 2) : at::constant_pad_nd(x, {0, 0, 0, 0, 2, 0}));
}

// Where gradients are wanted, those of the kept frames go from chunk to chunk.
at::Tensor convolve_and_keep(const Linear& layer, const at::Tensor& padded, at::Tensor& kept) {
  kept = padded.narrow(2, padded.size(2) - 2, 2).clone();  // a view would keep all of `padded`
  const auto kernel = layer.weight.sizes();
  return convolve(layer, padded, 1, {0, kernel[3] / 2, kernel[4] / 2});
}

}  // namespace

at::Tensor causal_conv(const Linear& layer, const at::Tensor& x, at::Tensor& kept) {
  if (c10::GradMode::is_enabled()) return convolve_and_keep(layer, after_kept(x, kept), kept);
  at::Tensor padded = with_kept(x, kept);
  padded.narrow(2, 2, x.size(2)).copy_(x);
  return convolve_and_keep(layer, padded, kept);
}

at::Tensor norm_silu_causal_conv(const at::Tensor& norm, const Linear& layer, const at::Tensor& x,
                                 at::Tensor& kept) {
  if (c10::GradMode::is_enabled()) {
    return convolve_and_keep(layer, after_kept(unfused::channel_norm_silu(x, norm), kept), kept);
  }
  at::Tensor padded = with_kept(x, kept);
  channel_norm_silu(x, norm, padded.narrow(2, 2, x.size(2)));
  return convolve_and_keep(layer, padded, kept);
}

at::Tensor each_frame(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& function) {
  const auto s = x.sizes();
  // Where channels are innermost, frames are already apart and nothing is copied.
  const at::Tensor result =
      channels_last(function(x.permute({0, 2, 1, 3, 4}).reshape({s[0] * s[2], s[1], s[3], s[4]})));
  return result.view({s[0], s[2], result.size(1), result.size(2), result.size(3)}).permute({0, 2, 1, 3, 4});
}

void ResidualBlock::list(WeightList& weights, const std::string& name, int64_t in, int64_t out) {
  weights.add(name + ".norm1.gamma", {in, 1, 1, 1}, norm1);
  weights.add_layer(name + ".conv1", {out, in, 3, 3, 3}, conv1);
  weights.add(name + ".norm2.gamma", {out, 1, 1, 1}, norm2);
  weights.add_layer(name + ".conv2", {out, out, 3, 3, 3}, conv2);
  if (in != out) weights.add_layer(name + ".conv_shortcut", {out, in, 1, 1, 1}, shortcut);
}

at::Tensor ResidualBlock::operator()(const at::Tensor& x, FrameCache& cache) const {
  at::Tensor h = norm_silu_causal_conv(norm1, conv1, x, cache.next());
  h = norm_silu_causal_conv(norm2, conv2, h, cache.next());
  return h.add_(shortcut.weight.defined() ? convolve(shortcut, x, 1, 0) : x);
}

void FrameAttention::list(WeightList& weights, const std::string& name, int64_t width) {
  weights.add(name + ".norm.gamma", {width, 1, 1}, norm);
  weights.add_layer(name + ".to_qkv", {3 * width, width, 1, 1}, qkv);
  weights.add_layer(name + ".proj", {width, width, 1, 1}, projection);
}

at::Tensor FrameAttention::operator()(const at::Tensor& x) const {
  return x + each_frame(x, [&](const at::Tensor& frame) {
           const int64_t n = frame.size(0), c = frame.size(1), h = frame.size(2), w = frame.size(3);
           const at::Tensor all = channels_last(convolve(qkv, channel_norm(frame, norm), 1, 0));
           // [N, 3C, h, w] -> [N, 1, h*w, 3C]
           const auto parts = all.permute({0, 2, 3, 1}).view({n, 1, h * w, 3 * c}).chunk(3, -1);
           const at::Tensor attended = at::scaled_dot_product_attention(parts[0], parts[1], parts[2]);
           return convolve(projection, attended.reshape({n, h, w, c}).permute({0, 3, 1, 2}), 1, 0);
         });
}

void MiddleBlock::list(WeightList& weights, const std::string& name, int64_t width) {
  before.list(weights, name + ".resnets.0", width, width);
  attention.list(weights, name + ".attentions.0", width);
  after.list(weights, name + ".resnets.1", width, width);
}

at::Tensor MiddleBlock::operator()(const at::Tensor& x, FrameCache& cache) const {
  return after(attention(before(x, cache)), cache);
}

WanVae::WanVae(const VaeConfig& config) : config_(config) {
  const int64_t z = config.latent_channels;
  encoder_.list(weights_, config);
  weights_.add_layer("quant_conv", {2 * z, 2 * z, 1, 1, 1}, quantize_);
  weights_.add_layer("post_quant_conv", {z, z, 1, 1, 1}, dequantize_);
  decoder_.list(weights_, config);
}

at::Tensor WanVae::a_channel(const std::vector<double>& numbers, const at::TensorOptions& options) const {
  return at::tensor(numbers, options.device(at::kCPU)).view({1, -1, 1, 1, 1}).to(options.device());
}

void WanVae::decode(const at::Tensor& latents, Rows rows,
                    const std::function<void(const at::Tensor&)>& sink) const {
  decode_band(latents, rows, [&](const at::Tensor& frames) { sink(frames.clamp_(-1.0, 1.0)); });
}

void WanVae::decode_unlimited(const at::Tensor& latents,
                              const std::function<void(const at::Tensor&)>& sink) const {
  decode_band(latents, {0, latents.size(3)}, sink);
}

void WanVae::decode_band(const at::Tensor& latents, Rows rows,
                         const std::function<void(const at::Tensor&)>& sink) const {
  const auto options = dequantize_.weight.options();
  const at::Tensor mean = a_channel(config_.mean, options), deviation = a_channel(config_.deviation, options);
  const at::Tensor z = convolve(dequantize_, channels_last(latents.to(options) * deviation + mean), 1, 0);
  const DecoderBand band = decoder_.band(rows, z.size(3));
  FrameCache cache;
  for (int64_t i = 0; i < z.size(2); ++i) {
    cache.rewind();
    sink(decoder_(z.narrow(2, i, 1), band, cache));
  }
}

at::Tensor WanVae::encode(const at::Tensor& frames) const {
  require(frames.size(2) % 4 == 1, "the VAE encodes 4k+1 frames, not {}", frames.size(2));
  const at::Tensor x = channels_last(frames.to(quantize_.weight.options()));
  FrameCache cache;
  std::vector<at::Tensor> parts{encoder_(x.narrow(2, 0, 1), cache)};
  for (int64_t i = 1; i < x.size(2); i += 4) {
    cache.rewind();
    parts.push_back(encoder_(x.narrow(2, i, 4), cache));
  }
  return convolve(quantize_, at::cat(parts, 2), 1, 0);
}

at::Tensor WanVae::normalised(const at::Tensor& mean) const {
  const at::Tensor wide = mean.to(at::kFloat);
  return (wide - a_channel(config_.mean, wide.options())) / a_channel(config_.deviation, wide.options());
}

}  // namespace frameshard::wan
