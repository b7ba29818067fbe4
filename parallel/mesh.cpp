#include "parallel/mesh.h"

#include "core/error.h"

namespace frameshard {
namespace {

struct Axis {
  const char* name;
  int Coord::*position;
  int MeshShape::*size;
};
constexpr Axis axes[] = {{"dp", &Coord::dp, &MeshShape::dp},
                         {"cfg", &Coord::cfg, &MeshShape::cfg},
                         {"cp", &Coord::cp, &MeshShape::cp}};

}  // namespace

Coord coord_of(int rank, MeshShape shape) {
  return {.dp = rank / (shape.cp * shape.cfg), .cfg = rank / shape.cp % shape.cfg, .cp = rank % shape.cp};
}

int rank_of(Coord coord, MeshShape shape) {
  return (coord.dp * shape.cfg + coord.cfg) * shape.cp + coord.cp;
}

std::vector<int> group_ranks(int rank, MeshShape shape, const std::string& axis_name) {
  for (const Axis& axis : axes) {
    if (axis_name != axis.name) continue;
    std::vector<int> ranks;
    Coord coord = coord_of(rank, shape);
    for (int i = 0; i < shape.*axis.size; ++i) {
      coord.*axis.position = i;
      ranks.push_back(rank_of(coord, shape));
    }
    return ranks;
  }
  fail(ExitCode::internal, "the mesh has no axis {}", axis_name);
}

std::string group_name(const std::string& axis, const std::vector<int>& ranks) {
  return fmt::format("{}{{{}}}", axis, fmt::join(ranks, ","));
}

ProcessMesh::ProcessMesh(Communicator& world, MeshShape shape, const GroupMaker& make_group)
    : shape_(shape), coord_(coord_of(world.rank(), shape)) {
  require(world.size() == shape.ranks(), "a mesh of {} x {} x {} over {} ranks", shape.dp, shape.cfg,
          shape.cp, world.size());
  auto split = [&](const std::string& axis) {
    const std::vector<int> ranks = group_ranks(world.rank(), shape, axis);
    return world.split(/*color=*/ranks.front(), /*key=*/world.rank(), group_name(axis, ranks));
  };
  auto device_group = [&](CommPtr group) {
    return group->size() > 1 ? make_group(std::move(group)) : std::move(group);
  };
  dp_ = split("dp");
  cfg_ = device_group(split("cfg"));
  cp_ = device_group(split("cp"));
  replica_ = world.split(coord_.dp, world.rank(), fmt::format("replica{}", coord_.dp));
}

}  // namespace frameshard
