// Wan 2.1's causal 3-D VAE (diffusers' AutoencoderKLWan). It works through a video a few frames at a time:
// each causal convolution keeps the last two frames of its input for the next chunk.
#pragma once

#include <filesystem>

#include "models/parts.h"
#include "models/weights.h"

namespace frameshard::wan {

/// vae/config.json
struct VaeConfig {
  int64_t encoder_dim, decoder_dim, latent_channels, residual_blocks;
  std::vector<int64_t> multipliers;  ///< channels at each resolution, times the dim
  std::vector<bool> halves_time;     ///< whether the step down from a resolution halves the frame count too
  std::vector<double> mean, deviation;  ///< of the latents, a channel each

  /// 65 for settings that this version does not implement (Wan 2.2's residual VAE among them).
  static VaeConfig read(const std::filesystem::path& config_json);
};

/// The frames that causal convolutions keep between chunks, in the order in which a pass comes by them.
class FrameCache {
 public:
  at::Tensor& next();
  void rewind() { position_ = 0; }

 private:
  std::vector<at::Tensor> slots_;
  size_t position_ = 0;
};

struct ResidualBlock {
  at::Tensor norm1, norm2;
  Linear conv1, conv2, shortcut;  ///< no shortcut convolution where the width stays
  void list(WeightList& weights, const std::string& name, int64_t in, int64_t out);
  at::Tensor operator()(const at::Tensor& x, FrameCache& cache) const;
};

/// Self-attention inside each frame, one head.
struct FrameAttention {
  at::Tensor norm;
  Linear qkv, projection;
  void list(WeightList& weights, const std::string& name, int64_t width);
  at::Tensor operator()(const at::Tensor& x) const;
};

struct MiddleBlock {
  ResidualBlock before, after;
  FrameAttention attention;
  void list(WeightList& weights, const std::string& name, int64_t width);
  at::Tensor operator()(const at::Tensor& x, FrameCache& cache) const;
};

/// Halves or doubles height and width, and with a time convolution the frame count.
struct Resample {
  bool present = false, changes_time = false;
  Linear spatial, time;
};

/// What of each resolution a band of the picture needs: the rows that its residual blocks take, and those
/// that leave them. Each convolution spoils one row at an inner edge, where it sees zeros instead of the
/// neighbours.
struct DecoderBand {
  std::vector<Rows> in, out;
  Rows picture;
};

class Decoder {
 public:
  void list(WeightList& weights, const VaeConfig& config);
  /// For rows of latents of height `height`.
  DecoderBand band(Rows rows, int64_t height) const;
  /// One latent frame [B, C, 1, h, w] -> 1 frame the first time, 4 after.
  at::Tensor operator()(const at::Tensor& latent, const DecoderBand& band, FrameCache& cache) const;

 private:
  struct Level {
    std::vector<ResidualBlock> blocks;
    Resample up;
  };
  at::Tensor upsample(const Resample& up, const at::Tensor& x, FrameCache& cache) const;

  Linear conv_in_, conv_out_;
  at::Tensor norm_out_;
  MiddleBlock middle_;
  std::vector<Level> levels_;
};

class Encoder {
 public:
  void list(WeightList& weights, const VaeConfig& config);
  /// 1 frame the first time, 4 after: [B, 3, n, H, W] -> one latent frame [B, 2C, 1, h, w].
  at::Tensor operator()(const at::Tensor& frames, FrameCache& cache) const;

 private:
  struct Level {
    std::vector<ResidualBlock> blocks;
    Resample down;
  };
  at::Tensor downsample(const Resample& down, const at::Tensor& x, FrameCache& cache) const;

  Linear conv_in_, conv_out_;
  at::Tensor norm_out_;
  MiddleBlock middle_;
  std::vector<Level> levels_;
};

class WanVae final : public Vae {
 public:
  explicit WanVae(const VaeConfig& config);
  WanVae(const WanVae&) = delete;
  WanVae& operator=(const WanVae&) = delete;

  const WeightList& weights() const override { return weights_; }
  using Vae::decode;
  void decode(const at::Tensor& latents, Rows rows,
              const std::function<void(const at::Tensor&)>& sink) const override;
  void decode_unlimited(const at::Tensor& latents,
                        const std::function<void(const at::Tensor&)>& sink) const override;
  at::Tensor encode(const at::Tensor& frames) const override;
  at::Tensor normalised(const at::Tensor& mean) const override;
  void move_to(const at::Device& device) override { move_weights(weights_, device); }

 private:
  /// One of the two numbers a channel, [1, C, 1, 1, 1].
  at::Tensor a_channel(const std::vector<double>& numbers, const at::TensorOptions& options) const;
  void decode_band(const at::Tensor& latents, Rows rows,
                   const std::function<void(const at::Tensor&)>& sink) const;

  VaeConfig config_;
  WeightList weights_;
  Decoder decoder_;
  Encoder encoder_;
  Linear quantize_, dequantize_;
};

/// Causal in time: two frames of `kept` (zeros at the start) before x, then a convolution of 3 frames that
/// keeps the size. Channels are innermost in memory, here and in all that follows.
at::Tensor causal_conv(const Linear& layer, const at::Tensor& x, at::Tensor& kept);
/// The same of silu(channel_norm(x, norm)), which is written straight to where the convolution reads it.
at::Tensor norm_silu_causal_conv(const at::Tensor& norm, const Linear& layer, const at::Tensor& x,
                                 at::Tensor& kept);
/// Applies a 2-D function to each frame of [B, C, T, H, W].
at::Tensor each_frame(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& function);

}  // namespace frameshard::wan
