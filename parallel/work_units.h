// Work units: what can be computed apart and put together afterwards. The passes of a denoising step are
// (guidance's two, several prompts, context windows), and so may be whatever else has a cost, a result of a
// known shape and no need of the others' results (examples/add_a_work_unit).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include <ATen/ATen.h>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// The numbers of the units that each worker computes, ascending.
using Deal = std::vector<std::vector<size_t>>;

/// Deals units by cost over speed: the costliest first, each to the worker that would have it done first, of
/// equals to the one that has less to do, then to the first (R. L. Graham, Bounds on Multiprocessing Timing
/// Anomalies, 1969; for units of one cost the result is the best there is). Costs and speeds are in any unit;
/// a worker of speed 0 gets none.
Deal schedule(std::span<const double> costs, std::span<const double> speeds);

/// When the last worker is done, in the unit of cost over speed.
double finish_time(const Deal& deal, std::span<const double> costs, std::span<const double> speeds);

class WorkUnit {
 public:
  virtual ~WorkUnit() = default;
  /// In a unit that all of them share; the same on every rank.
  virtual double cost() const = 0;
  /// Of the result; the same on every rank, since the others receive it.
  virtual std::vector<int64_t> shape() const = 0;
  /// On the device and in the type of every other unit's result.
  virtual at::Tensor compute() const = 0;
};
using WorkUnits = std::vector<std::unique_ptr<WorkUnit>>;

/// The result of every unit on every rank, in the order of the units; each is computed by one rank. `speeds`:
/// of the group's ranks; empty: all alike. `like`: a tensor on the device and of the type of the results.
/// Collective.
std::vector<at::Tensor> compute_units(const WorkUnits& units, std::span<const double> speeds,
                                      Communicator& group, const at::Tensor& like);

/// The results in the order of the units, from what the workers gave, one worker after the other: `packed` is
/// flat, shapes[i] is that of unit i.
std::vector<at::Tensor> unpacked_units(const at::Tensor& packed, const Deal& deal,
                                       std::span<const std::vector<int64_t>> shapes);

/// What the units of `deal` gave, to all ranks: `mine` are the results of this rank's, in their order;
/// shapes[i] of unit i. Collective.
std::vector<at::Tensor> gather_units(const std::vector<at::Tensor>& mine, const Deal& deal,
                                     std::span<const std::vector<int64_t>> shapes, Communicator& group,
                                     const at::TensorOptions& options);

}  // namespace frameshard
