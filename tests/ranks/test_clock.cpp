// How ranks whose clocks differ find rank 0's time.
#include "parallel/comm/clock.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::testing::check;
using frameshard::testing::on_ranks;
using namespace std::chrono_literals;

TEST_CASE("clocks hours apart are brought together within the error that is told") {
  on_ranks({1, 2, 3, 5}, [](Communicator& comm) {
    // Ranks of one host read one clock; each is set back by hours of its own.
    const std::chrono::nanoseconds behind = comm.rank() * 1h + 7ns;
    const auto first_behind = 7ns;
    const ClockOffset clock = measure_clock(comm, [&] { return steady_now() - behind; });
    const auto wrong = clock.offset - (behind - first_behind);
    check(std::chrono::abs(wrong) <= clock.error,
          fmt::format("{} ns off, {} ns told", wrong.count(), clock.error.count()));
    check(clock.error < 1min, "an error that is useful");
    check(comm.rank() != 0 || (clock.offset == 0ns && clock.error == 0ns), "rank 0's own clock");
  });
}
