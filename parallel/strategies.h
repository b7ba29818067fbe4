// The attention strategies of a context-parallel group, made from the sizes that the plan chose.
#pragma once

#include "parallel/attention.h"
#include "parallel/balance.h"
#include "parallel/mesh.h"

namespace frameshard {

/// ulysses x ring = the group's size. Ulysses takes the neighbouring ranks, the ring goes between such
/// groups.
struct AttentionShape {
  int ulysses = 1, ring = 1;
};

/// Owns the subgroups that the strategy needs. Collective over `cp`, which must outlive it.
class AttentionStrategy {
 public:
  /// `speeds`: of the ranks of `cp`, in any unit; none: all alike.
  AttentionStrategy(Communicator& cp, AttentionShape shape,
                    ExchangeOverlap overlap = ExchangeOverlap::automatic, std::vector<double> speeds = {});
  /// Other shares from here on, with the same subgroups: no message is sent, so that all ranks of `cp` must
  /// give the same speeds between the same two exchanges. What operator* gave before is gone.
  void set_speeds(std::vector<double> speeds);
  /// Empty: all alike.
  const std::vector<double>& speeds() const { return speeds_; }
  AttentionShape shape() const { return shape_; }
  /// The tokens of each rank, by the speeds.
  Partition divide(int64_t tokens) const;
  const AttentionParallel& operator*() const { return *attention_; }
  const AttentionParallel* operator->() const { return attention_.get(); }
  /// What the subgroups have moved (nothing where the cp group itself is used).
  int64_t bytes_sent() const;
  double seconds() const;

 private:
  Communicator& cp_;
  AttentionShape shape_;
  ExchangeOverlap overlap_;
  std::vector<double> speeds_;
  CommPtr ulysses_, ring_;  // both axes; null: the cp group itself
  AttentionPtr attention_;
};

/// What the groups of one rank have moved so far: bytes sent by context parallelism and for guidance, and
/// seconds in collectives.
struct Moved {
  int64_t cp_bytes = 0, cfg_bytes = 0;
  double seconds = 0;
};
Moved moved_by(ProcessMesh& mesh, const AttentionStrategy& attention);

}  // namespace frameshard
