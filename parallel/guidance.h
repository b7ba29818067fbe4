// Classifier-free guidance (https://arxiv.org/abs/2207.12598) over the CFG group.
#pragma once

#include <functional>

#include <ATen/ATen.h>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// uncond + scale * (cond - uncond)
at::Tensor combine(const at::Tensor& cond, const at::Tensor& uncond, double scale);

enum class Branch { cond = 0, uncond = 1 };

/// Deals the guidance branches to the ranks of a CFG group and puts the results together on all of them.
class GuidanceCombiner {
 public:
  /// guidance_scale <= 1 turns guidance off: the conditional branch alone is computed. The group has 1 or 2
  /// ranks.
  GuidanceCombiner(Communicator& cfg, double guidance_scale);

  bool guided() const { return scale_ > 1; }
  /// The branches that this rank computes.
  std::vector<Branch> mine() const;
  /// Computes this rank's branches with `predict`, all-gathers, combines in float32; the same tensor on every rank.
  at::Tensor operator()(const std::function<at::Tensor(Branch)>& predict) const;

 private:
  Communicator& cfg_;
  double scale_;
};

}  // namespace frameshard
