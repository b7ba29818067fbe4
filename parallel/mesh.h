// The ranks as a three-dimensional mesh: data parallel x CFG parallel x context parallel, each axis with
// process groups of its own.
#pragma once

#include <string>

#include "parallel/comm/backends.h"

namespace frameshard {

/// Sizes of the axes. dp: replicas that work on different requests; cfg: guidance branches; cp: parts of the
/// sequence.
struct MeshShape {
  int dp = 1, cfg = 1, cp = 1;
  int ranks() const { return dp * cfg * cp; }
};

struct Coord {
  int dp = 0, cfg = 0, cp = 0;
};

/// cp varies fastest, then cfg, then dp: the busiest exchanges stay between neighbouring ranks, inside one
/// node.
Coord coord_of(int rank, MeshShape shape);
int rank_of(Coord coord, MeshShape shape);

/// World ranks of the group that `rank` belongs to along an axis ("dp", "cfg" or "cp"), and the group's name
/// "cp{0,1}".
std::vector<int> group_ranks(int rank, MeshShape shape, const std::string& axis);
std::string group_name(const std::string& axis, const std::vector<int>& ranks);

class ProcessMesh {
 public:
  /// Collective over `world`, which must have shape.ranks() ranks. Tensors of the cp and cfg groups are moved
  /// by groups from `make_group`; host data by `replica()`.
  ProcessMesh(Communicator& world, MeshShape shape, const GroupMaker& make_group);

  Communicator& dp() { return *dp_; }
  Communicator& cfg() { return *cfg_; }
  Communicator& cp() { return *cp_; }
  /// All ranks that work on the same request (cfg x cp), for host data.
  Communicator& replica() { return *replica_; }

  MeshShape shape() const { return shape_; }
  Coord coord() const { return coord_; }

 private:
  MeshShape shape_;
  Coord coord_;
  CommPtr dp_, cfg_, cp_, replica_;
};

}  // namespace frameshard
