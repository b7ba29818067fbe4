// Classifier-free guidance (https://arxiv.org/abs/2207.12598) over the CFG group.
#pragma once

#include <functional>

#include <ATen/ATen.h>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// uncond + scale * (cond - uncond)
at::Tensor combine(const at::Tensor& cond, const at::Tensor& uncond, double scale);

enum class Branch { cond = 0, uncond = 1 };

/// With so few tokens a GPU waits for its host.
constexpr int64_t few_tokens = 4096;

/// Whether a rank that has both branches computes them in one batch: where a GPU would wait. Beyond, and on a
/// CPU always, one after the other takes half the memory and less time (docs/speed.md).
inline bool branches_together(bool on_gpu, int64_t tokens_a_rank) {
  return on_gpu && tokens_a_rank <= few_tokens;
}

/// Deals the guidance branches to the ranks of a CFG group and puts the results together on all of them.
class GuidanceCombiner {
 public:
  /// guidance_scale <= 1 turns guidance off: the conditional branch alone is computed. The group has 1 or 2
  /// ranks. `together`: one rank computes both branches in one batch.
  GuidanceCombiner(Communicator& cfg, double guidance_scale, bool together);

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
