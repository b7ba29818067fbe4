#include "models/step_passes.h"

#include "core/error.h"
#include "models/masks.h"
#include "parallel/guidance.h"

namespace frameshard {
namespace {

at::Tensor wide(const at::Tensor& prediction) {
  return prediction.to(at::kFloat);
}

}  // namespace

StepPasses::StepPasses(const RequestConfig& request, at::IntArrayRef latent_shape, WindowSize size,
                       const at::Device& device)
    : scale_(request.guidance_scale),
      guidance_(request.uses_guidance()),
      windows_(context_windows(latent_shape[1], size.window, size.overlap)),
      latent_shape_(latent_shape.vec()),
      shape_{1, latent_shape[0], windows_[0].count(), latent_shape[2], latent_shape[3]} {
  const size_t prompts = request.all_prompts().size();
  if (prompts > 1 || request.all_prompts()[0].mask) {
    masks_ = prompt_masks(request, latent_shape[2], latent_shape[3]);
    for (at::Tensor& mask : masks_) mask = mask.to(device);
  }
  pyramid_ = at::tensor(pyramid_weights(windows_[0].count()), at::kFloat).view({1, 1, -1, 1, 1});
  weights_ = at::zeros({1, 1, latent_shape[1], 1, 1});
  for (const FrameWindow& window : windows_) weights_.narrow(2, window.begin, window.count()).add_(pyramid_);
  pyramid_ = pyramid_.to(device), weights_ = weights_.to(device);
  for (const FrameWindow& window : windows_) {
    for (size_t text = 0; text < prompts + size_t(guidance_); ++text) passes_.push_back({text, window});
  }
}

at::Tensor StepPasses::guided(const std::vector<at::Tensor>& predictions, size_t first) const {
  const size_t prompts = std::max<size_t>(1, masks_.size());
  at::Tensor cond = wide(predictions[first]);
  if (!masks_.empty()) {
    cond = cond * masks_[0];
    for (size_t i = 1; i < prompts; ++i) cond += wide(predictions[first + i]) * masks_[i];
  }
  if (!guidance_) return cond;
  return frameshard::combine(cond, wide(predictions[first + prompts]), scale_);
}

at::Tensor StepPasses::combine(const std::vector<at::Tensor>& predictions) const {
  require(predictions.size() == passes_.size(), "{} predictions for {} passes", predictions.size(),
          passes_.size());
  if (windows_.size() == 1) return guided(predictions, 0);
  const size_t a_window = passes_.size() / windows_.size();
  std::vector<int64_t> whole = latent_shape_;
  whole.insert(whole.begin(), 1);
  at::Tensor sum = at::zeros(whole, predictions[0].options().dtype(at::kFloat));
  for (size_t i = 0; i < windows_.size(); ++i) {
    const FrameWindow& window = windows_[i];
    sum.narrow(2, window.begin, window.count()).add_(guided(predictions, i * a_window) * pyramid_);
  }
  return sum.div_(weights_);
}

std::vector<std::vector<size_t>> batches_of(const std::vector<size_t>& mine, const std::vector<Pass>& passes,
                                            bool together) {
  std::vector<std::vector<size_t>> batches;
  for (const size_t pass : mine) {
    const bool joins =
        together && !batches.empty() && passes[batches.back().front()].frames == passes[pass].frames;
    if (!joins) batches.emplace_back();
    batches.back().push_back(pass);
  }
  return batches;
}

}  // namespace frameshard
