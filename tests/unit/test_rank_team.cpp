// Ranks as threads that stay.
#include <atomic>
#include <set>

#include "parallel/comm/rank_team.h"
#include "parallel/comm/thread.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;

namespace {

// The sum of all ranks' numbers, which only a team in order can make.
int64_t sum_over(RankTeam& team) {
  std::atomic<int64_t> sum = 0;
  team.run([&](Communicator& comm) {
    at::Tensor mine = at::full({3}, comm.rank() + 1, at::kLong);
    comm.all_reduce(mine);
    if (comm.rank() == comm.size() - 1) sum = mine[2].item<int64_t>();
  });
  return sum;
}

}  // namespace

TEST_CASE("a team runs bodies with collectives, one after the other") {
  for (int n : {1, 2, 3, 5}) {
    RankTeam team(n);
    CHECK(team.size() == n);
    for (int i = 0; i < 20; ++i) REQUIRE(sum_over(team) == n * (n + 1) / 2);
  }
}

TEST_CASE("a rank has the same thread in every call") {
  RankTeam team(3);
  std::vector<std::set<std::thread::id>> threads(3);
  for (int i = 0; i < 10; ++i) {
    team.run([&](Communicator& comm) { threads[size_t(comm.rank())].insert(std::this_thread::get_id()); });
  }
  std::set<std::thread::id> all{std::this_thread::get_id()};
  for (const auto& of_rank : threads) {
    CHECK(of_rank.size() == 1);
    all.merge(std::set(of_rank));
  }
  CHECK(all.size() == 4);
}

TEST_CASE("groups of a team can be split") {
  RankTeam team(4);
  std::vector<int64_t> sums(4);
  team.run([&](Communicator& comm) {
    const CommPtr half = comm.split(comm.rank() % 2, comm.rank(), "half");
    at::Tensor mine = at::full({1}, comm.rank(), at::kLong);
    half->all_reduce(mine);
    sums[size_t(comm.rank())] = mine.item<int64_t>();
  });
  CHECK(sums == std::vector<int64_t>{2, 4, 2, 4});
}

TEST_CASE("a rank that fails wakes the others, its error is thrown, and the team runs again") {
  RankTeam team(3);
  for (int failing : {0, 1, 2}) {
    const auto error = caught([&] {
      team.run([&](Communicator& comm) {
        if (comm.rank() == failing) fail(ExitCode::bad_data, "rank {} has had enough", failing);
        comm.barrier();
      });
    });
    CHECK(error.code == ExitCode::bad_data);
    CHECK(error.message == fmt::format("rank {} has had enough", failing));
    CHECK(sum_over(team) == 6);
  }
}

TEST_CASE("a rank that fails in the middle of a split leaves nothing behind") {
  RankTeam team(3);
  const auto error = caught([&] {
    team.run([&](Communicator& comm) {
      comm.barrier();
      if (comm.rank() == 1) fail(ExitCode::not_finite, "not a number");
      comm.split(0, comm.rank(), "all")->barrier();
    });
  });
  CHECK(error.message == "not a number");
  CHECK(sum_over(team) == 6);
}

TEST_CASE("a rank that calls its own team is told so") {
  RankTeam team(2);
  const auto error = caught([&] { team.run([&](Communicator&) { team.run([](Communicator&) {}); }); });
  CHECK(error.code == ExitCode::internal);
  CHECK(error.has("called its own team"));
  CHECK(sum_over(team) == 3);
}

TEST_CASE("calls from several threads take turns") {
  RankTeam team(2);
  std::atomic<int> right = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int call = 0; call < 10; ++call) right += int(sum_over(team) == 3);
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(right == 40);
}
