// The forward and backward pass of samples of one size.
#pragma once

#include <span>
#include <vector>

#include "models/parts.h"
#include "models/training/flow_sample.h"
#include "parallel/strategies.h"

namespace frameshard {

/// What is learnt from in one pass, a sample each.
struct TrainPass {
  std::vector<FlowSample> samples;  ///< of one shape, on the CPU
  std::vector<at::Tensor> texts;    ///< [1, T, text_dim]
};

class TrainStep {
 public:
  /// `cp` shares the tokens of each sample.
  TrainStep(const Denoiser& denoiser, Communicator& cp, const AttentionStrategy& attention,
            const BlockRunner& runner, at::Device device)
      : denoiser_(denoiser), cp_(cp), attention_(attention), runner_(runner), device_(device) {}

  /// Of each sample the mean over all numbers of (prediction - target)^2, in float32; the same on every rank
  /// of `cp`. Collective.
  std::vector<double> losses(const TrainPass& pass) const;

  /// Adds the gradients of the losses' sum, each times its weight, and returns the losses. On each rank of
  /// `cp` they are its share: all of them add up to the gradient.
  std::vector<double> backward(const TrainPass& pass, std::span<const double> weights) const;

 private:
  ParallelSequence sequence_of(const TrainPass& pass) const;
  at::Tensor losses_of(const TrainPass& pass, const ParallelSequence& sequence) const;

  const Denoiser& denoiser_;
  Communicator& cp_;
  const AttentionStrategy& attention_;
  const BlockRunner& runner_;
  at::Device device_;
};

}  // namespace frameshard
