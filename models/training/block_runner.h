// How the blocks of a denoiser are run while it is trained: their weights gathered when they are needed (ZeRO
// 3), and their activations computed again in the backward pass (https://arxiv.org/abs/1604.06174).
#pragma once

#include "models/parts.h"
#include "parallel/trained_parameters.h"

namespace frameshard {

struct BlockRunOptions {
  bool recompute = false;
  /// Whose weights are gathered: unit i + 1 has those of block i, unit 0 all others. Null: weights are always
  /// whole.
  TrainedParameters* parameters = nullptr;
};

class TrainingBlocks final : public BlockRunner {
 public:
  /// `parameters` need `recompute`: autograd would otherwise keep views of weights that are gone.
  explicit TrainingBlocks(BlockRunOptions options);
  at::Tensor run(size_t index, const Block& block, const Inputs& inputs) const override;
  /// Takes part in what another rank's forward and backward pass gathers. Collective with that pass.
  void idle_pass() const;

 private:
  BlockRunOptions options_;
};

}  // namespace frameshard
