#include <algorithm>
#include <set>

#include "parallel/comm/self.h"
#include "parallel/mesh.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;
using Ranks = std::vector<int>;

namespace {

template <class Body>
void for_each_shape(Body body) {
  for (int dp : {1, 2, 3}) {
    for (int cfg : {1, 2}) {
      for (int cp : {1, 2, 3, 5}) body(MeshShape{dp, cfg, cp});
    }
  }
}

int along(Coord coord, const std::string& axis) {
  return axis == "dp" ? coord.dp : axis == "cfg" ? coord.cfg : coord.cp;
}
int along(MeshShape shape, const std::string& axis) {
  return axis == "dp" ? shape.dp : axis == "cfg" ? shape.cfg : shape.cp;
}

}  // namespace

TEST_CASE("cp varies fastest, then cfg, then dp") {
  const MeshShape shape{.dp = 2, .cfg = 2, .cp = 3};
  CHECK(shape.ranks() == 12);
  const Coord coord = coord_of(10, shape);
  CHECK(coord.dp == 1);
  CHECK(coord.cfg == 1);
  CHECK(coord.cp == 1);
  CHECK(rank_of({.dp = 0, .cfg = 1, .cp = 2}, shape) == 5);
  CHECK(rank_of({.dp = 1, .cfg = 0, .cp = 0}, shape) == 6);
}

TEST_CASE("ranks and coordinates are inverse") {
  for_each_shape([](MeshShape shape) {
    for (int rank = 0; rank < shape.ranks(); ++rank) {
      const Coord coord = coord_of(rank, shape);
      CHECK((coord.dp >= 0 && coord.dp < shape.dp));
      CHECK((coord.cfg >= 0 && coord.cfg < shape.cfg));
      CHECK((coord.cp >= 0 && coord.cp < shape.cp));
      CHECK(rank_of(coord, shape) == rank);
    }
  });
}

TEST_CASE("the groups of an axis divide the world") {
  for_each_shape([](MeshShape shape) {
    for (const std::string axis : {"dp", "cfg", "cp"}) {
      std::multiset<int> seen;
      for (int rank = 0; rank < shape.ranks(); ++rank) {
        const Ranks group = group_ranks(rank, shape, axis);
        CHECK(int(group.size()) == along(shape, axis));
        CHECK(std::is_sorted(group.begin(), group.end()));
        CHECK(group[size_t(along(coord_of(rank, shape), axis))] == rank);
        for (int other : group) CHECK(group_ranks(other, shape, axis) == group);
        if (group.front() == rank) seen.insert(group.begin(), group.end());
      }
      CHECK(int(seen.size()) == shape.ranks());
      CHECK(int(std::set<int>(seen.begin(), seen.end()).size()) == shape.ranks());
    }
  });
}

TEST_CASE("two ranks share at most one axis' group") {
  const MeshShape shape{.dp = 2, .cfg = 2, .cp = 3};
  for (int a = 0; a < shape.ranks(); ++a) {
    for (int b = 0; b < shape.ranks(); ++b) {
      int shared = 0;
      for (const std::string axis : {"dp", "cfg", "cp"}) {
        const Ranks group = group_ranks(a, shape, axis);
        shared += int(std::count(group.begin(), group.end(), b));
      }
      CHECK(shared <= (a == b ? 3 : 1));
    }
  }
}

TEST_CASE("groups by hand") {
  const MeshShape shape{.dp = 2, .cfg = 2, .cp = 2};
  CHECK(group_ranks(5, shape, "cp") == Ranks{4, 5});
  CHECK(group_ranks(5, shape, "cfg") == Ranks{5, 7});
  CHECK(group_ranks(5, shape, "dp") == Ranks{1, 5});
  CHECK(group_ranks(0, {1, 1, 1}, "cp") == Ranks{0});
  const auto error = caught([&] { group_ranks(0, shape, "tp"); });
  CHECK(error.code == ExitCode::internal);
  CHECK(error.has("tp"));
}

TEST_CASE("names of groups") {
  CHECK(group_name("cp", {0, 1}) == "cp{0,1}");
  CHECK(group_name("cfg", {3}) == "cfg{3}");
  CHECK(group_name("dp", {1, 5, 9}) == "dp{1,5,9}");
}

TEST_CASE("a mesh of one rank") {
  const CommPtr world = make_self_communicator("world");
  int made = 0;
  const GroupMaker count = [&](CommPtr group) {
    ++made;
    return group;
  };
  ProcessMesh mesh(*world, {}, count);
  CHECK(mesh.dp().name() == "dp{0}");
  CHECK(mesh.cfg().name() == "cfg{0}");
  CHECK(mesh.cp().name() == "cp{0}");
  CHECK(mesh.replica().size() == 1);
  CHECK(mesh.coord().cp == 0);
  CHECK(mesh.shape().ranks() == 1);
  CHECK(made == 0);  // a group of one moves nothing: no backend is asked for it
  const auto error = caught([&] { ProcessMesh(*world, {.dp = 1, .cfg = 2, .cp = 1}, count); });
  CHECK(error.code == ExitCode::internal);
  CHECK(error.has("1 x 2 x 1 over 1 ranks"));
}
