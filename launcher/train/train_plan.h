// Every derived number of a training run, from plain numbers alone.
#pragma once

#include "core/train_config.h"
#include "launcher/train/train_job.h"
#include "parallel/plan.h"
#include "parallel/trained_parameters.h"

namespace frameshard {

/// What a plan must know of the model, the data and the machine.
struct TrainFacts {
  ModelFacts model;
  PlanMachine machine;
  int64_t trained = 0, all = 0;  ///< numbers
  /// Trained numbers of unit 0, which stays whole with ZeRO 3, and of the largest block: two are whole at a
  /// time.
  int64_t first_unit = 0, largest_block = 0;
  int64_t epoch_samples = 0, items = 0;
  int64_t tokens = 0;        ///< of the longest sample
  int64_t frozen_bytes = 0;  ///< of weights that are not trained, beside low-rank changes or a decoder
  /// Of an autoencoder or a trained text encoder: what autograd keeps of a sample.
  int64_t other_activation_bytes = 0;
};

struct TrainPlan {
  MeshShape mesh;  ///< cfg is 1
  int zero = 0;
  bool recompute = false;
  TrainAmount amount;
  std::vector<double> speeds;  ///< of the dp groups; one each
  TrainedBytes trained;        ///< a rank's
  int64_t frozen_bytes = 0;    ///< weights that are not trained
  /// When they are the most together: where the backward pass begins, or where it ends.
  int64_t gradient_bytes = 0, activation_bytes = 0;
  std::vector<std::string> reasons, warnings;

  int64_t bytes() const {
    return trained.weights + trained.optimizer + frozen_bytes + gradient_bytes + activation_bytes;
  }
};

/// Of these of the data's items, in this order. Reads no weights.
TrainFacts train_facts(const TrainJob& job, const PlanMachine& machine, const SampleOrder& order,
                       std::span<const size_t> items);

/// 78 where sizes do not fit the ranks.
TrainPlan make_train_plan(const TrainConfig& config, const TrainFacts& facts);

/// In words: samples, steps, global batch and learning rate first.
std::string describe(const TrainPlan& plan, const TrainConfig& config, const TrainFacts& facts);

}  // namespace frameshard
