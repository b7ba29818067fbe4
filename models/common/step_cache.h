// Reuse of what the blocks did at an earlier step, after TeaCache (https://arxiv.org/abs/2411.19108): where
// the embedding of the timestep, which modulates every block, has hardly moved, the blocks' effect on the
// tokens has hardly moved either.
//
// With e_i the modulation at step i, the change of step i is |e_i - e_(i-1)| / |e_(i-1)|, L1 norms. Changes
// are summed since the last step that was computed; a step is computed, and the sum cleared, where the sum
// has reached the threshold. The first and the last step of a run are always computed. Other steps add the
// residual of the last computed one to their tokens: tokens after the blocks minus tokens before them.
// TeaCache also passes the change through a polynomial fitted to each model; here it is used as it is, so
// that thresholds differ from theirs. Changes follow from the schedule and the weights alone: which steps are
// computed is known, and agreed on by all ranks, before the first one.
#pragma once

#include <vector>

#include <ATen/ATen.h>

namespace frameshard {

/// What a text's denoising keeps from step to step, on each rank for its own tokens.
struct StepCache {
  bool reuse = false;   ///< at this step: `residual` instead of the blocks
  at::Tensor residual;  ///< of the last computed step, [B, S_mine, d], the model's dtype
};

/// Which of a run's steps add the cached residual, given the changes from each step to the next, one fewer
/// than there are steps.
std::vector<bool> steps_to_reuse(const std::vector<double>& changes, double threshold);

}  // namespace frameshard
