#include "parallel/context_windows.h"
#include "tests/support/catch.h"

using namespace frameshard;
using Windows = std::vector<FrameWindow>;

TEST_CASE("a video that is no longer than a window is one") {
  CHECK((context_windows(9, 9, 3) == Windows{{0, 9}}));
  CHECK((context_windows(5, 9, 3) == Windows{{0, 5}}));
}

TEST_CASE("windows overlap as asked for, the last one by more") {
  CHECK((context_windows(21, 9, 3) == Windows{{0, 9}, {6, 15}, {12, 21}}));
  CHECK((context_windows(20, 9, 3) == Windows{{0, 9}, {6, 15}, {11, 20}}));
  CHECK((context_windows(10, 9, 8) == Windows{{0, 9}, {1, 10}}));
  CHECK((context_windows(6, 2, 0) == Windows{{0, 2}, {2, 4}, {4, 6}}));
}

TEST_CASE("every frame is in a window, and all windows have one length") {
  for (int64_t frames = 1; frames < 40; ++frames) {
    for (int64_t window = 1; window < 12; ++window) {
      for (int64_t overlap = 0; overlap < window; ++overlap) {
        const Windows windows = context_windows(frames, window, overlap);
        int64_t end = 0;
        for (const FrameWindow& each : windows) {
          CHECK((each.begin <= end && each.end > end && each.count() == std::min(window, frames)));
          end = each.end;
        }
        CHECK(end == frames);
      }
    }
  }
}

TEST_CASE("a frame counts more the further it is from the window's ends") {
  CHECK(pyramid_weights(5) == std::vector<double>{1, 2, 3, 2, 1});
  CHECK(pyramid_weights(4) == std::vector<double>{1, 2, 2, 1});
  CHECK(pyramid_weights(1) == std::vector<double>{1});
}
