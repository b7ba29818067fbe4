// Where ranks run: cores by NUMA node, and what all of them must have in common.
#include <filesystem>

#include <sched.h>

#include "core/affinity.h"
#include "core/host.h"
#include "launcher/ranks.h"
#include "parallel/comm/thread.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::put;
using frameshard::test::Scratch;
using Cpus = std::vector<int>;

TEST_CASE("lists of cores as the kernel writes them") {
  CHECK(parse_cpu_list("0-3,8,10-11") == Cpus{0, 1, 2, 3, 8, 10, 11});
  CHECK(parse_cpu_list("5") == Cpus{5});
  CHECK(parse_cpu_list("") == Cpus{});
  CHECK(parse_cpu_list("x,2,-") == Cpus{2});
  CHECK(parse_cpu_list("7-4") == Cpus{});
}

TEST_CASE("cores are divided into equal parts that do not overlap") {
  const Cpus cpus{0, 1, 4, 5, 2, 3, 6};
  CHECK(share_of_cpus(cpus, 0, 3) == Cpus{0, 1});
  CHECK(share_of_cpus(cpus, 1, 3) == Cpus{4, 5});
  CHECK(share_of_cpus(cpus, 2, 3) == Cpus{2, 3});
  CHECK(share_of_cpus(cpus, 0, 1) == cpus);
  CHECK(share_of_cpus(cpus, 7, 8).empty());
}

TEST_CASE("a process keeps to the cores that it is given") {
  const Cpus all = allowed_cpus();
  REQUIRE_FALSE(all.empty());
  CHECK(allowed_cpus_of_node(-1) == all);
  CHECK(allowed_neighbours({all.front(), 1 << 20}) == all);
  REQUIRE(run_on_cpus({all.back()}));
  CHECK(allowed_cpus() == Cpus{all.back()});
  CHECK_FALSE(run_on_cpus({}));
  REQUIRE(run_on_cpus(all));
  CHECK(allowed_cpus() == all);
}

TEST_CASE("cores of one NUMA node stay together") {
  const Cpus all = allowed_cpus();
  Scratch scratch;
  const auto nodes = [&](const std::string& first, const std::string& second) {
    for (const auto& [name, cpus] : {std::pair("node0", first), {"node1", second}}) {
      std::filesystem::create_directories(scratch / name);
      put(scratch / name / "cpulist", cpus + "\n");
    }
  };
  const int last = all.back();
  nodes(std::to_string(last), "0-" + std::to_string(last - 1));
  CHECK(allowed_neighbours({last}, scratch.path()) == Cpus{last});
  CHECK(allowed_neighbours(all, scratch.path()).size() == all.size());  // in several nodes: no limit
  CHECK(allowed_cpus(scratch.path()).front() == last);                  // nodes in their order
  CHECK(allowed_cpus_of_node(0, scratch.path()) == Cpus{last});
  CHECK(allowed_cpus_of_node(7, scratch.path()).size() == all.size());
}

TEST_CASE("ranks that share a host divide its cores") {
  const Cpus all = allowed_cpus();
  std::vector<RankPlace> places(2);
  run_ranks(2, [&](Communicator& world) {
    RankPlace place{.local_rank = world.rank(), .local_size = 2, .under_mpi = true};
    divide_cores(place, world);
    places[size_t(world.rank())] = place;
  });
  CHECK(places[0].cores == std::max(1, allowed_cores() / 2));
  CHECK(places[0].all_cpus == all);
  for (int rank : {0, 1}) {
    const Cpus node = allowed_neighbours(share_of_cpus(all, rank, 2));
    const bool matters = all.size() >= 2 && int(all.size()) == allowed_cores() && node.size() < all.size();
    CHECK(places[size_t(rank)].own_cpus == (matters ? node : Cpus{}));
  }
  // More ranks than cores: none has one of its own.
  RankPlace crowded;
  const int many = int(all.size()) + 1;
  run_ranks(many, [&](Communicator& world) {
    RankPlace place;
    divide_cores(place, world);
    if (world.rank() == 0) crowded = place;
  });
  CHECK(crowded.own_cpus.empty());
  CHECK(crowded.cores == 1);
}

TEST_CASE("ranks of different versions are refused with a table") {
  const auto error = caught([] {
    run_ranks(3, [](Communicator& world) {
      check_same_versions({{"frameshard", world.rank() == 1 ? "0.2" : "0.1"}, {"LibTorch", "2.11.0"}}, world);
    });
  });
  CHECK(error.code == ExitCode::disagree);
  INFO(error.message);
  CHECK(error.has("LibTorch 2.11.0, frameshard 0.1: ranks 0 (host"));
  CHECK(error.has("LibTorch 2.11.0, frameshard 0.2: ranks 1 (host"));
  CHECK(caught([] {
          run_ranks(2, [](Communicator& world) { check_same_versions({{"a", "1"}}, world); });
        }).code == ExitCode::ok);
}
