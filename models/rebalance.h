// Shares of the work that follow the ranks' speeds while a video is denoised (infer.rebalance).
#pragma once

#include <chrono>
#include <span>
#include <vector>

#include <ATen/ATen.h>

#include "parallel/mesh.h"
#include "parallel/plan.h"
#include "parallel/speed_watch.h"
#include "parallel/strategies.h"

namespace frameshard {

/// New shares after a step.
struct ShareChange {
  int64_t step = 0;            ///< steps that were done, from 1
  std::vector<double> speeds;  ///< of the ranks of the replica, as parts of their cp group's
};

/// What a forward pass of the denoiser computes.
struct DenoiseWork {
  ModelFacts model;
  int64_t tokens = 0, text_tokens = 0;
  std::vector<int64_t> passes{};  ///< of each cp group of the replica; empty: all have some
};

/// Each rank's part of the operations of a cp group of this shape, together 1: products go by the rank's
/// tokens, attention by its place's heads and its ring's tokens. `speeds`: of all of its ranks.
std::vector<double> parts_of_work(const DenoiseWork& work, AttentionShape shape,
                                  std::span<const double> speeds);

/// Measures what each rank computes in a step, and gives the cp groups of a replica new shares where a rank's
/// speed has drifted (parallel/speed_watch.h). The loop times its steps:
///     rebalance.begin_step();
///     ... the denoiser's passes ...
///     if (rebalance.end_step(i + 1)) ... divide the tokens anew, forget what was cached by tokens ...
class Rebalance {
 public:
  /// `attention` is that of mesh.cp(). Collective over the replica.
  Rebalance(ProcessMesh& mesh, AttentionStrategy& attention, const at::Device& device, DenoiseWork work);

  /// False in groups of one rank, and where a rank computes on a GPU: its host knows when work was enqueued,
  /// not how long it waited for other ranks. The same on all ranks of the replica.
  bool enabled() const { return enabled_; }

  void begin_step();
  /// Not for steps that a step cache answered: they compute next to nothing. The first step and the one after
  /// a change warm up and are not measured. True, on all ranks of the replica, where the shares of one of its
  /// groups have changed. Collective over the replica.
  bool end_step(int64_t step);
  /// The same with this rank's seconds of computing, without waiting for others.
  bool note(int64_t step, double seconds);

  const std::vector<ShareChange>& changes() const { return changes_; }

 private:
  using Clock = std::chrono::steady_clock;

  bool note_group(size_t group, std::span<const double> seconds);
  void record(int64_t step, const std::vector<double>& former);
  std::vector<double> shares() const;
  double waited() const { return moved_by(mesh_, attention_).seconds; }

  ProcessMesh& mesh_;
  AttentionStrategy& attention_;
  DenoiseWork work_;
  bool enabled_ = false, warm_ = false;
  std::vector<SpeedWatch> watches_;  // of each cp group of the replica
  std::vector<ShareChange> changes_;
  Clock::time_point begin_;
  double waited_before_ = 0;
};

}  // namespace frameshard
