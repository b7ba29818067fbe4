#include "models/training/train_step.h"

#include <c10/core/GradMode.h>

namespace frameshard {

ParallelSequence TrainStep::sequence_of(const TrainPass& pass) const {
  const at::IntArrayRef shape = pass.sample.noisy.sizes().slice(1);
  return {cp_, *attention_, attention_.divide(denoiser_.token_count(shape))};
}

at::Tensor TrainStep::loss_of(const TrainPass& pass, const ParallelSequence& sequence) const {
  const at::Tensor noisy = pass.sample.noisy.to(device_);
  const at::Tensor timestep =
      at::full({noisy.size(0)}, pass.sample.timestep(), noisy.options().dtype(at::kFloat));
  const at::Tensor prediction =
      denoiser_.predict_for_training(noisy, timestep, pass.text.to(device_), sequence, runner_);
  return at::mse_loss(prediction.to(at::kFloat), pass.sample.target.to(device_));
}

double TrainStep::loss(const TrainPass& pass) const {
  const c10::NoGradGuard no_grad;
  return loss_of(pass, sequence_of(pass)).item<double>();
}

double TrainStep::backward(const TrainPass& pass, double weight) const {
  const c10::AutoGradMode grad(true);
  const ParallelSequence sequence = sequence_of(pass);  // there until the backward pass has ended
  const at::Tensor value = loss_of(pass, sequence);
  (value * weight).backward();
  return value.item<double>();
}

}  // namespace frameshard
