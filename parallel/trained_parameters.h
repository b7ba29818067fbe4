// The weights that are trained, their gradients, and how both are divided over ranks: data parallelism with
// gradients summed while the backward pass still runs (https://arxiv.org/abs/2006.15704), and ZeRO's three
// stages (https://arxiv.org/abs/1910.02054).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// A weight and where the model has it.
struct TrainedParameter {
  std::string name;
  at::Tensor* tensor;
  int unit = 0;  ///< weights of one unit are gathered together with ZeRO 3; units are numbered in the order
                 ///< of use, from 0
};

struct SyncOptions {
  int zero = 0;  ///< 0: nothing is divided; 1: shards for the optimizer; 2: gradients; 3: weights
  int64_t bucket_bytes = 25 << 20;  ///< a bucket holds at least one weight and ends after this many bytes
};

/// This rank's piece of a bucket. Flat, in the order of TrainedParameters::names(): elements [begin, end) of
/// all weights laid one after another.
struct ParameterShard {
  int64_t begin = 0, end = 0;
  at::Tensor parameter;  ///< [end - begin], the weights' own memory where they are not divided; the optimizer
                         ///< changes it
  at::Tensor gradient;   ///< [end - begin], after finish_gradients(): the sum over all ranks
};

/// Not thread-safe; every rank has its own, over weights of its own.
class TrainedParameters {
 public:
  /// Copies the weights into flat buckets, of one dtype and unit each, of which `*parameter.tensor` becomes a
  /// view that requires a gradient. Filled from the last weight to the first, as gradients come. `group` is
  /// for gradients, `gather` for weights (another group of the same ranks, since both may be under way); both
  /// must outlive this. The values are those of the first rank. Collective; 76 where ranks give other
  /// parameters (names, units, shapes, dtypes). All are on one device.
  TrainedParameters(std::vector<TrainedParameter> parameters, Communicator& group, Communicator& gather,
                    SyncOptions options);
  ~TrainedParameters();
  TrainedParameters(const TrainedParameters&) = delete;
  TrainedParameters& operator=(const TrainedParameters&) = delete;

  /// Gradients are zero again. Until sum_next_backward() backward passes only add up on this rank, whose
  /// gradients are then whole with every stage.
  void begin_step();
  /// The backward pass that comes is this rank's last one of the step: a bucket whose gradients are complete
  /// is summed over the group at once, in the same order on all ranks, and with ZeRO 2 and 3 its whole is
  /// freed. The weights' own gradients stay undefined: what autograd leaves there is taken into the buckets.
  void sum_next_backward();
  /// Every bucket is summed, also on a rank that had no backward pass. Collective; between the last backward
  /// pass and this nothing else may be that the ranks wait for each other in, since a rank without a pass
  /// joins the others' sums only here.
  void finish_gradients();

  const std::vector<ParameterShard>& shards() const { return shards_; }
  std::vector<ParameterShard>& shards() { return shards_; }
  /// The shards were changed: every rank's weights follow (with ZeRO 3 at the next gather). Collective.
  void publish();

  /// ZeRO 3: the weights of a unit are whole between gather() and release(); both may be nested, and cost
  /// nothing below ZeRO 3. `prefetch` starts the gathering of a unit beside what follows. Collective: all
  /// ranks call these alike, also one that has fewer backward passes; and each has a last one, since the
  /// others' sums are made between its gathers. While a unit is released its tensors have no memory, and
  /// must not be read; at the next gather() also those have it again that autograd saved.
  void gather(int unit);
  void release(int unit);
  void prefetch(int unit);
  int units() const;
  /// All weights whole, to be read or saved, until the guard goes, which must be before this. Collective.
  [[nodiscard]] std::shared_ptr<void> whole();

  int64_t elements() const;                          ///< of all weights
  int64_t trained_bytes() const;                     ///< of all weights, whole
  std::vector<std::string> names() const;            ///< in flat order
  std::vector<std::vector<int64_t>> shapes() const;  ///< likewise
  int zero() const;

 private:
  struct Moved;
  struct State;
  void add_bucket(size_t first, size_t last, int64_t begin);
  void take_gradient(size_t bucket, size_t weight);
  void sum_next_bucket();
  void end_oldest_sum();
  void start_gathering(int unit);
  void finish_gathering(int unit);

  std::unique_ptr<State> state_;
  std::vector<ParameterShard> shards_;
};

/// Bytes a rank holds of weights that are trained, their gradients and the optimizer's state, by stage: what
/// a plan says.
struct TrainedBytes {
  int64_t weights = 0, gradients = 0, optimizer = 0;
  int64_t total() const { return weights + gradients + optimizer; }
};
/// Pure. `elements` trained numbers of `element_bytes` each, over `ranks`; `state_bytes` a number of
/// optimizer's state (two float32 averages, a float32 master where weights are bfloat16, an average of the
/// weights); `largest_unit` elements of the two units that are whole at a time with ZeRO 3; `bucket` elements
/// of gradients that are whole at a time with ZeRO 2 and 3: of up to three buckets, one that fills and two
/// that are summed. With ZeRO 1 a rank has its shard of the sums beside whole gradients of its own.
struct TrainedSizes {
  int64_t elements = 0, element_bytes = 4, state_bytes = 8, largest_unit = 0, bucket = 0;
};
TrainedBytes trained_bytes(const TrainedSizes& sizes, int zero, int ranks);

}  // namespace frameshard
