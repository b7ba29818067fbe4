// One clip's forward and backward pass through an autoencoder that is trained.
#pragma once

#include "core/train_method_config.h"
#include "models/parts.h"

namespace frameshard {

/// Means over all numbers of a clip, as they are weighted in AutoencoderConfig.
struct VaeLosses {
  double absolute = 0, square = 0, edges = 0, kl = 0;
  double total = 0;  ///< their weighted sum: what is made small
};

class VaeStep {
 public:
  VaeStep(const Vae& vae, const AutoencoderConfig& config, at::Device device)
      : vae_(vae), config_(config), device_(device) {}

  /// frames [1, 3, F, H, W] in [-1, 1] -> the losses of what comes back of the latents' means. No gradients.
  VaeLosses losses(const at::Tensor& frames) const;

  /// Adds the gradients of `weight` times the total, for latents drawn around their means: mean + deviation *
  /// noise(shape), of the latents' shape [1, C, f, h, w].
  using Noise = std::function<at::Tensor(at::IntArrayRef shape)>;
  VaeLosses backward(const at::Tensor& frames, const Noise& noise, double weight) const;

 private:
  const Vae& vae_;
  AutoencoderConfig config_;
  at::Device device_;
};

/// The part of a clip [1, 3, F, H, W] that a sample shows: of the windows' lengths the sample's turn, no
/// longer than the clip, at a place drawn from the sample's number and `seed`. Without windows the whole
/// clip.
at::Tensor training_window(const at::Tensor& frames, const std::vector<int64_t>& windows, int64_t sample,
                           uint64_t seed);

/// Its frames.
int64_t window_length(int64_t frames, const std::vector<int64_t>& windows, int64_t sample);

/// Mean and deviation of each channel of the latents of clips, before normalisation: what vae/config.json has
/// as latents_mean and latents_std. Sums, so that ranks can add theirs up.
class LatentMoments {
 public:
  explicit LatentMoments(int64_t channels);
  void add(const at::Tensor& mean);     ///< [B, C, f, h, w], the latents' means
  at::Tensor& sums() { return sums_; }  ///< [3, C] float64: counts, sums, sums of squares
  std::vector<double> mean() const;
  std::vector<double> deviation() const;  ///< at least 1e-6

 private:
  at::Tensor sums_;
};

}  // namespace frameshard
