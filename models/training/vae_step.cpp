#include "models/training/vae_step.h"

#include <c10/core/GradMode.h>

#include "models/training/sample_order.h"

namespace frameshard {
namespace {

// A normal distribution around each latent, float32.
struct LatentDistribution {
  at::Tensor mean, log_variance;

  at::Tensor drawn(const at::Tensor& noise) const { return mean + (0.5 * log_variance).exp() * noise; }
  // The mean of its divergence from the standard normal one (https://arxiv.org/abs/1312.6114, appendix B).
  at::Tensor kl() const { return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean(); }
};

LatentDistribution encoded(const Vae& vae, const at::Tensor& frames) {
  const auto moments = vae.encode(frames).to(at::kFloat).chunk(2, 1);
  // The limits are those of diffusers' DiagonalGaussianDistribution.
  return {moments[0], moments[1].clamp(-30.0, 20.0)};
}

at::Tensor decoded(const Vae& vae, const at::Tensor& latents) {
  std::vector<at::Tensor> parts;
  vae.decode_unlimited(vae.normalised(latents), [&](const at::Tensor& frames) { parts.push_back(frames); });
  return at::cat(parts, 2).to(at::kFloat);
}

// Edges of a difference are the differences of the edges.
at::Tensor mean_edge(const at::Tensor& difference) {
  const at::Tensor right = difference.diff(1, 4), down = difference.diff(1, 3);
  const int64_t count = std::max<int64_t>(right.numel() + down.numel(), 1);
  return (right.abs().sum() + down.abs().sum()) / double(count);
}

struct LossTerms {
  at::Tensor absolute, square, edges, kl;

  LossTerms(const at::Tensor& difference, const at::Tensor& divergence)
      : absolute(difference.abs().mean()),
        square(difference.square().mean()),
        edges(mean_edge(difference)),
        kl(divergence) {}

  at::Tensor total(const AutoencoderConfig& config) const {
    return config.absolute_weight * absolute + config.square_weight * square + config.edge_weight * edges +
           config.kl_weight * kl;
  }

  // One copy from the device for all.
  VaeLosses numbers(const AutoencoderConfig& config) const {
    const at::Tensor all = at::stack({absolute, square, edges, kl, total(config)}).detach().cpu();
    const float* values = all.const_data_ptr<float>();
    return {
        .absolute = values[0], .square = values[1], .edges = values[2], .kl = values[3], .total = values[4]};
  }
};

}  // namespace

VaeLosses VaeStep::losses(const at::Tensor& frames) const {
  const c10::NoGradGuard no_grad;
  const at::Tensor target = frames.to(device_, at::kFloat);
  const LatentDistribution latents = encoded(vae_, target);
  return LossTerms(decoded(vae_, latents.mean) - target, latents.kl()).numbers(config_);
}

VaeLosses VaeStep::backward(const at::Tensor& frames, const Noise& noise, double weight) const {
  const c10::AutoGradMode grad(true);
  const at::Tensor target = frames.to(device_, at::kFloat);
  const LatentDistribution latents = [&] {
    const c10::AutoGradMode encoder_grad(!config_.decoder_only);
    return encoded(vae_, target);
  }();
  const LossTerms terms(
      decoded(vae_, latents.drawn(noise(latents.mean.sizes()).to(device_, at::kFloat))) - target,
      latents.kl());
  (terms.total(config_) * weight).backward();
  return terms.numbers(config_);
}

int64_t window_length(int64_t frames, const std::vector<int64_t>& windows, int64_t sample) {
  return windows.empty() ? frames : std::min(windows[size_t(sample) % windows.size()], frames);
}

at::Tensor training_window(const at::Tensor& frames, const std::vector<int64_t>& windows, int64_t sample,
                           uint64_t seed) {
  if (windows.empty()) return frames;
  constexpr uint64_t kWindow = 0x77696e646f77;  // "window": numbers other than those of the sample's noise
  const int64_t length = window_length(frames.size(2), windows, sample);
  const auto places = uint64_t(frames.size(2) - length + 1);
  const uint64_t drawn = sample_seed(sample_seed(seed ^ kWindow, 0), sample);
  return frames.narrow(2, int64_t(drawn % places), length);
}

LatentMoments::LatentMoments(int64_t channels) : sums_(at::zeros({3, channels}, at::kDouble)) {}

void LatentMoments::add(const at::Tensor& mean) {
  // [B, C, f, h, w] -> [C, B f h w]
  const at::Tensor values = mean.detach().transpose(0, 1).flatten(1).to(at::kDouble);
  const at::Tensor count = at::full({values.size(0)}, double(values.size(1)), values.options());
  sums_ += at::stack({count, values.sum(1), values.square().sum(1)}).to(sums_.device());
}

std::vector<double> LatentMoments::mean() const {
  const at::Tensor means = (sums_[1] / sums_[0]).cpu();
  return {means.const_data_ptr<double>(), means.const_data_ptr<double>() + means.numel()};
}

std::vector<double> LatentMoments::deviation() const {
  const at::Tensor variance = sums_[2] / sums_[0] - (sums_[1] / sums_[0]).square();
  const at::Tensor deviations = variance.clamp_min(0).sqrt().clamp_min(1e-6).cpu();
  return {deviations.const_data_ptr<double>(), deviations.const_data_ptr<double>() + deviations.numel()};
}

}  // namespace frameshard
