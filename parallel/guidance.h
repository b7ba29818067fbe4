// Classifier-free guidance (https://arxiv.org/abs/2207.12598) over the CFG group.
#pragma once

#include <functional>

#include <ATen/ATen.h>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// uncond + scale * (cond - uncond)
at::Tensor combine(const at::Tensor& cond, const at::Tensor& uncond, double scale);

enum class Branch { cond = 0, uncond = 1 };

/// Up to so many tokens a rank computes both branches in one batch: small work leaves a device waiting for
/// its host otherwise. Beyond, one after the other takes half the memory and no more time.
constexpr int64_t most_tokens_together = 4096;

/// Deals the guidance branches to the ranks of a CFG group and puts the results together on all of them.
class GuidanceCombiner {
 public:
  /// guidance_scale <= 1 turns guidance off: the conditional branch alone is computed. The group has 1 or 2
  /// ranks; `tokens` are a rank's.
  GuidanceCombiner(Communicator& cfg, double guidance_scale, int64_t tokens);

  bool guided() const { return scale_ > 1; }
  /// The branches that this rank computes: those of one list in one batch, the lists one after the other.
  const std::vector<std::vector<Branch>>& mine() const { return mine_; }
  /// Computes this rank's branches with `predict`, which takes a list of mine() by its number and gives a
  /// batch in its order; all-gathers, combines in float32; the same tensor on every rank.
  at::Tensor operator()(const std::function<at::Tensor(size_t)>& predict) const;

 private:
  Communicator& cfg_;
  double scale_;
  std::vector<std::vector<Branch>> mine_;
};

}  // namespace frameshard
