#include "parallel/speed_watch.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

using Numbers = std::vector<double>;

// Whether it asks for new shares within `steps` steps of ranks that do this work in this time.
bool asks(SpeedWatch& watch, const Numbers& seconds, const Numbers& work, size_t steps = SpeedWatch::steps) {
  for (size_t i = 0; i < steps; ++i) {
    if (watch.note(seconds, work)) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("ranks that keep their pace keep their shares") {
  SpeedWatch watch({2, 1});
  CHECK_FALSE(asks(watch, {1.0, 1.02}, {2.0 / 3, 1.0 / 3}, 20));
  CHECK(watch.speeds() == Numbers{2, 1});
}

TEST_CASE("a rank that became slower gives work away") {
  SpeedWatch watch({1, 1});
  CHECK(asks(watch, {1, 2}, {0.5, 0.5}));
  CHECK(watch.speeds()[0] == Approx(2 * watch.speeds()[1]));
  CHECK_FALSE(asks(watch, {1, 1}, {2.0 / 3, 1.0 / 3}, 10));  // with the new shares it is in step
}

TEST_CASE("one slow step is no drift") {
  SpeedWatch watch({1, 1});
  for (int i = 0; i < 10; ++i) {
    CHECK_FALSE(watch.note(Numbers{1, i % 3 == 0 ? 5.0 : 1.0}, Numbers{0.5, 0.5}));
  }
}

TEST_CASE("a rank without work is left out") {
  SpeedWatch watch({1, 0, 1});
  CHECK(asks(watch, {1, 0, 4}, {0.5, 0, 0.5}));
  CHECK(watch.speeds()[1] == 0);
  CHECK(watch.speeds()[0] == Approx(4 * watch.speeds()[2]));
}

TEST_CASE("a slow rank whose share was rounded to nothing is not given up") {
  SpeedWatch watch({70, 1, 30});
  CHECK_FALSE(asks(watch, {0.1, 0, 0.1}, {0.7, 0, 0.3}, 10));
  CHECK(asks(watch, {0.1, 0, 0.2}, {0.7, 0, 0.3}));
  CHECK(watch.speeds()[1] == Approx(watch.speeds()[0] / 70).epsilon(0.3));
}

TEST_CASE("speeds in another unit are no drift") {
  SpeedWatch watch({70, 30});
  CHECK_FALSE(asks(watch, {0.1, 0.1}, {0.7, 0.3}, 10));
}
