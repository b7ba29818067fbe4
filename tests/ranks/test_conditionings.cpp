// Several prompts and context windows: passes of a step that are dealt to the ranks, and the result of one
// rank.
#include "core/io/png_writer.h"
#include "tests/support/small_denoise.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

// The upper or the lower half of the picture, written where every process has its own.
class HalfMask {
 public:
  explicit HalfMask(bool upper) {
    std::vector<uint8_t> pixels;
    for (int row = 0; row < 20; ++row) pixels.insert(pixels.end(), 3 * 12, (row < 10) == upper ? 255 : 0);
    write_png(file(), 12, 20, pixels);
  }
  std::filesystem::path file() const { return folder_.path() / "mask.png"; }

 private:
  frameshard::test::Scratch folder_;
};

}  // namespace

TEST_CASE("1, 2, 3 and 5 prompts with masks over 1 to 4 unequal groups") {
  if (!can_write_png()) {
    WARN("not run: built without libpng");
    return;
  }
  const HalfMask upper(true), lower(false);
  for (const int prompts : {1, 2, 3, 5}) {
    RequestConfig request = small_request();
    request.prompt = "";
    for (int i = 0; i < prompts; ++i) {
      request.prompts.push_back({.text = "a", .weight = 1.0 + i});
      if (i > 0) request.prompts.back().mask = (i % 2 == 1 ? upper : lower).file().string();
    }
    std::vector<Case> cases{{{.cfg = 2}, {1, 1}, {}}, {{.cfg = 2}, {1, 1}, {3, 1}}};
    if (prompts > 1) cases.push_back({{.cfg = 3}, {1, 1}, {2, 1, 1}});
    if (prompts > 2) cases.push_back({{.cfg = 4}, {1, 1}, {1, 0, 2, 5}});
    if (prompts > 1) cases.push_back({{.cfg = 2, .cp = 2}, {2, 1}, {2, 1, 1, 1}});
    check_same(cases, request);
  }
}

TEST_CASE("7 passes without guidance over 2 unequal ranks") {
  RequestConfig request = small_request();
  request.prompt = "", request.guidance_scale = 1;
  for (int i = 0; i < 7; ++i) request.prompts.push_back({.text = "a", .weight = 1.0 + i});
  check_same({{{.cfg = 2}, {1, 1}, {2, 1}}}, request);
}

TEST_CASE("windows of a longer video over 2 to 4 ranks") {
  RequestConfig request = small_request();
  request.num_frames = 25, request.context = {.window = 9, .overlap = 4};  // latents: 7 frames, 3 at once
  check_same({{{.cfg = 2}, {1, 1}, {}},
              {{.cp = 2}, {2, 1}, {}},
              {{.cp = 2}, {1, 2}, {2, 1}},
              {{.cfg = 3}, {1, 1}, {}},
              {{.cfg = 4}, {1, 1}, {4, 1, 1, 1}},
              {{.cfg = 2, .cp = 2}, {2, 1}, {}}},
             request);
}
