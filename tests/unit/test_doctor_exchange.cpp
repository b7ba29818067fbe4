// The doctor's sweep over message sizes, on threads as ranks, and the watchdog over it.
#include <chrono>
#include <cmath>
#include <future>
#include <mutex>
#include <set>

#include "launcher/doctor/exchange.h"
#include "launcher/doctor/exchange_check.h"
#include "launcher/doctor/watchdog.h"
#include "parallel/comm/thread.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

// What rank 0 reports, and the places where any rank said that it may have to wait.
struct Measured {
  ExchangeReport report;
  std::set<std::string> waits;
};

Measured measure(int ranks, const Hosts& hosts) {
  Measured measured;
  std::mutex mutex;
  run_ranks(ranks, [&](Communicator& world) {
    const auto note_wait = [&](const std::string& what) {
      std::lock_guard lock(mutex);
      measured.waits.insert(what);
    };
    const ExchangeReport report =
        check_exchange(world, hosts, {.local_rank = world.rank(), .local_size = ranks},
                       {.device = "cpu", .backend = "mpi", .seconds = 0.05, .waits_for = note_wait});
    if (world.rank() == 0) measured.report = report;
  });
  return measured;
}

// Of the lines with numbers alone: whether other work slows the exchange is not for these tests.
std::vector<std::string> measured_groups(const ExchangeReport& report) {
  std::vector<std::string> groups;
  for (const Finding& finding : report.findings) {
    if (finding.verdict == Verdict::ok) groups.push_back(finding.text.substr(0, finding.text.find(':')));
  }
  return groups;
}

}  // namespace

TEST_CASE("the exchange of one host") {
  const Hosts hosts{.of_rank = {0, 0, 0}, .place = {0, 1, 2}, .names = {"a"}, .cores = {"0", "0", "0"}};
  const Measured measured = measure(3, hosts);
  CHECK(measured_groups(measured.report) == std::vector<std::string>{"mpi inside the host, 3 ranks"});
  CHECK(std::count(measured.report.tables.begin(), measured.report.tables.end(), '\n') == 3 + 8);
  CHECK(measured.waits.count("the start of mpi") == 1);
  CHECK(measured.waits.count("all_to_all of 16.00 MiB inside the host") == 1);
  CHECK(measured.waits.size() == 1 + 2 * 8);
}

TEST_CASE("the exchange of uneven hosts") {
  const Hosts hosts{.of_rank = {0, 0, 1}, .place = {0, 1, 0}, .names = {"a", "b"}, .cores = {"0", "0", "0"}};
  CHECK(measured_groups(measure(3, hosts).report) == std::vector<std::string>{"mpi all ranks, 3 ranks",
                                                                              "mpi inside each host, 2 ranks",
                                                                              "mpi between hosts, 2 ranks"});
}

TEST_CASE("hosts of one rank have no inside") {
  const Hosts hosts{.of_rank = {0, 1}, .place = {0, 0}, .names = {"a", "b"}, .cores = {"0", "0"}};
  CHECK(measured_groups(measure(2, hosts).report) ==
        std::vector<std::string>{"mpi all ranks, 2 ranks", "mpi between hosts, 2 ranks"});
}

TEST_CASE("who shares cores") {
  const Hosts hosts{
      .of_rank = {0, 0, 1}, .place = {0, 1, 0}, .names = {"a", "b"}, .cores = {"0-3", "0-3", "0-3"}};
  CHECK(hosts.ranks_of(0) == 2);
  CHECK(hosts.ranks_of(1) == 1);
  CHECK(hosts.sharing(1) == 2);
  CHECK(hosts.sharing(2) == 1);
}

TEST_CASE("bandwidth and its table") {
  CHECK(std::abs(sent_a_second(4000, 4, 0.001) - 3e6) < 1);
  CHECK(sent_a_second(4000, 1, 0.001) == 0);
  CHECK(sent_a_second(4000, 4, 0) == 0);
  const std::string table = exchange_table({.name = "between hosts", .size = 4},
                                           {{.bytes = 16 << 20, .all_to_all = 0.01, .all_gather = 0.02}});
  CHECK(table.find("  between hosts, 4 ranks\n") == 0);
  CHECK(table.find("16.00 MiB          1.26     10000.0         0.629     20000.0") != std::string::npos);
}

TEST_CASE("the watchdog says what is late") {
  std::promise<std::string> late;
  Watchdog dog(0.05, [&](const std::string& what) { late.set_value(what); });
  dog.wait_for("all_to_all");
  auto spoken = late.get_future();
  REQUIRE(spoken.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
  CHECK(spoken.get() == "all_to_all");
}

TEST_CASE("a watchdog that nothing waits for ends at once") {
  bool late = false;
  {
    Watchdog dog(3600, [&](const std::string&) { late = true; });
    dog.wait_for("all_to_all");
    dog.rest();
  }
  CHECK_FALSE(late);
}
