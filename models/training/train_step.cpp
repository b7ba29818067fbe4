#include "models/training/train_step.h"

#include <c10/core/GradMode.h>

namespace frameshard {

namespace {

std::vector<double> numbers(const at::Tensor& values) {
  const at::Tensor host = values.detach().to(at::kCPU, at::kDouble).contiguous();
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

at::Tensor joined(const std::vector<FlowSample>& samples, at::Tensor FlowSample::*part) {
  std::vector<at::Tensor> parts;
  for (const FlowSample& sample : samples) parts.push_back(sample.*part);
  return at::cat(parts);
}

}  // namespace

ParallelSequence TrainStep::sequence_of(const TrainPass& pass) const {
  const at::IntArrayRef shape = pass.samples.front().noisy.sizes().slice(1);
  return {cp_, *attention_, attention_.divide(denoiser_.token_count(shape))};
}

// [B]
at::Tensor TrainStep::losses_of(const TrainPass& pass, const ParallelSequence& sequence) const {
  std::vector<double> timesteps;
  for (const FlowSample& sample : pass.samples) timesteps.push_back(sample.timestep());
  const at::Tensor prediction =
      denoiser_.predict_for_training(joined(pass.samples, &FlowSample::noisy).to(device_),
                                     at::tensor(timesteps, at::kDouble).to(at::kFloat).to(device_),
                                     at::cat(pass.texts).to(device_), sequence, runner_);
  const at::Tensor target = joined(pass.samples, &FlowSample::target).to(device_);
  return at::mse_loss(prediction.to(at::kFloat), target, at::Reduction::None).flatten(1).mean(1);
}

std::vector<double> TrainStep::losses(const TrainPass& pass) const {
  const c10::NoGradGuard no_grad;
  return numbers(losses_of(pass, sequence_of(pass)));
}

std::vector<double> TrainStep::backward(const TrainPass& pass, std::span<const double> weights) const {
  const c10::AutoGradMode grad(true);
  const ParallelSequence sequence = sequence_of(pass);  // there until the backward pass has ended
  const at::Tensor values = losses_of(pass, sequence);
  const at::Tensor factors = at::tensor(std::vector<double>(weights.begin(), weights.end()), at::kDouble);
  (values * factors.to(device_, at::kFloat)).sum().backward();
  return numbers(values);
}

}  // namespace frameshard
