// One sample's forward and backward pass.
#pragma once

#include "models/parts.h"
#include "models/training/flow_sample.h"
#include "parallel/strategies.h"

namespace frameshard {

/// What is learnt from in one pass.
struct TrainPass {
  FlowSample sample;  ///< on the CPU
  at::Tensor text;    ///< [1, T, text_dim]
};

class TrainStep {
 public:
  /// `cp` shares the tokens of each sample.
  TrainStep(const Denoiser& denoiser, Communicator& cp, const AttentionStrategy& attention,
            const BlockRunner& runner, at::Device device)
      : denoiser_(denoiser), cp_(cp), attention_(attention), runner_(runner), device_(device) {}

  /// The mean over all numbers of (prediction - target)^2, in float32; the same on every rank of `cp`.
  /// Collective.
  double loss(const TrainPass& pass) const;

  /// Adds the gradients of `weight` times the loss, and returns the loss. On each rank of `cp` they are its
  /// share: all of them add up to the gradient.
  double backward(const TrainPass& pass, double weight) const;

 private:
  ParallelSequence sequence_of(const TrainPass& pass) const;
  at::Tensor loss_of(const TrainPass& pass, const ParallelSequence& sequence) const;

  const Denoiser& denoiser_;
  Communicator& cp_;
  const AttentionStrategy& attention_;
  const BlockRunner& runner_;
  at::Device device_;
};

}  // namespace frameshard
