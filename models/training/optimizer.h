// AdamW (https://arxiv.org/abs/1711.05101) over this rank's shards of the weights, with clipping by the norm
// of all gradients, float32 master weights, and an average of the weights.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/train_config.h"
#include "models/training/sample_order.h"
#include "parallel/trained_parameters.h"

namespace frameshard {

enum class WeightPrecision {
  plain,       ///< float32 weights
  master,      ///< 16-bit weights, with float32 ones beside them that the optimizer changes
  stochastic,  ///< bfloat16 weights alone, rounded up or down by chance, so that small changes are not lost
};

/// The learning rate of a step, as schedules count samples: a linear rise by those that are done when the
/// step ends, so that the first rate is not 0; then constant, or down towards 0 along a cosine or a line by
/// those before the step, so that the last rate is not 0 either.
double learning_rate(const OptimizerConfig& config, Batch batch, int64_t all_samples);

class Optimizer {
 public:
  /// `ema`: decay of the weights' average; 0: none. `seed`: of stochastic rounding.
  Optimizer(const OptimizerConfig& config, WeightPrecision precision, double ema, uint64_t seed)
      : config_(config), precision_(precision), ema_(ema), seed_(seed) {}

  /// The length of the gradient of all weights together, over all ranks. `divided`: each rank has other
  /// shards; else all have the same. NaN or Inf on every rank where it is on one. Collective over `group`.
  static double gradient_norm(const std::vector<ParameterShard>& shards, bool divided, Communicator& group);

  /// One step with this learning rate; gradients count clip_norm / norm times where norm, which is finite, is
  /// longer than that. float32 gradients are then what counted, without a further pass over them; else
  /// gradients are left as they are.
  void step(std::vector<ParameterShard>& shards, double rate, double norm);

  int64_t steps() const { return steps_; }
  int64_t state_bytes() const;  ///< of this rank

  /// State by name ("exp_avg", "exp_avg_sq", "master", "ema"): one flat tensor a shard, in their order. For
  /// checkpoints; made (as a first step would) where no step has been taken. "master" is undefined for shards
  /// of float32 weights, which other precisions may have too.
  std::map<std::string, std::vector<at::Tensor>> state(const std::vector<ParameterShard>& shards);
  /// What `state` gave may be written into; this many steps have been taken.
  void restore_steps(int64_t steps) { steps_ = steps; }

 private:
  struct ShardState {
    at::Tensor average, square, master{}, ema{};  // float32, as long as the shard
  };
  struct AdamW;
  void make_state(const std::vector<ParameterShard>& shards);
  void step_narrow(ParameterShard& shard, ShardState& state, AdamW& adam) const;
  static at::Tensor float32_weight(const ParameterShard& shard, const ShardState& state);

  OptimizerConfig config_;
  WeightPrecision precision_;
  double ema_;
  uint64_t seed_;
  int64_t steps_ = 0;
  std::vector<ShardState> state_;
};

}  // namespace frameshard
