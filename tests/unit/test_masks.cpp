// Where in the picture each prompt counts: shares that sum to 1, and masks that leave a place out.
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/io/image_reader.h"
#include "core/io/png_writer.h"
#include "models/masks.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"

namespace frameshard {
namespace {

using namespace test;

bool skipped() {
  if (!can_read_image() || !can_write_png()) WARN("not run: built without libav or libpng");
  return !can_read_image() || !can_write_png();
}

class Masks {
 public:
  // A prompt whose mask has these levels, [H, W] from 0 to 255.
  void add(double weight, const at::Tensor& levels) {
    const at::Tensor rgb = levels.to(at::kByte).unsqueeze(-1).expand({-1, -1, 3}).contiguous();
    const auto file = scratch_ / (std::to_string(request.prompts.size()) + ".png");
    write_png(file, int(levels.size(1)), int(levels.size(0)),
              {rgb.const_data_ptr<std::uint8_t>(), std::size_t(rgb.numel())});
    request.prompts.push_back({.text = "a", .weight = weight, .mask = file.string()});
  }
  void add(double weight) { request.prompts.push_back({.text = "a", .weight = weight, .mask = {}}); }
  std::filesystem::path file(int number) const { return scratch_ / (std::to_string(number) + ".png"); }

  RequestConfig request;

 private:
  Scratch scratch_;
};

// White in the columns from `begin` to before `end`, of 64.
at::Tensor columns(int64_t begin, int64_t end) {
  at::Tensor levels = at::zeros({48, 64}, at::kFloat);
  levels.slice(1, begin, end).fill_(255);
  return levels;
}

std::vector<float> row(const at::Tensor& map) {
  const at::Tensor first = map[0][0][0][0].contiguous();
  CHECK(at::equal(map[0][0][0], first.unsqueeze(0).expand({map.size(3), -1})));
  return {first.const_data_ptr<float>(), first.const_data_ptr<float>() + first.numel()};
}

}  // namespace

TEST_CASE("one prompt without a mask counts everywhere", "[masks]") {
  RequestConfig request;
  request.prompt = "a fox";
  const auto maps = prompt_masks(request, 6, 10);
  REQUIRE(maps.size() == 1);
  CHECK(maps[0].sizes() == at::IntArrayRef{1, 1, 1, 6, 10});
  CHECK(maps[0].scalar_type() == at::kFloat);
  CHECK(at::equal(maps[0], at::ones_like(maps[0])));
  CHECK(masks_identity(request) == "none");
}

TEST_CASE("weights without masks are shares", "[masks]") {
  Masks masks;
  masks.add(1);
  masks.add(3);
  const auto maps = prompt_masks(masks.request, 2, 3);
  CHECK(at::equal(maps[0], at::full({1, 1, 1, 2, 3}, 0.25F)));
  CHECK(at::equal(maps[1], at::full({1, 1, 1, 2, 3}, 0.75F)));
}

TEST_CASE("two halves", "[masks]") {
  if (skipped()) return;
  Masks masks;
  masks.add(1, columns(0, 32));
  masks.add(5, columns(32, 64));
  const auto maps = prompt_masks(masks.request, 6, 4);
  REQUIRE(maps.size() == 2);
  // Antialiasing: a latent column reads pixels up to its neighbour's middle, 1/8 of its weight there, so that
  // the border is soft; the weights 1 and 5 count only there.
  const float own = 7.0F / (7 + 5);
  const std::vector<float> left = row(maps[0]);
  CHECK(left[0] == 1);
  CHECK(left[3] == 0);
  CHECK(std::abs(left[1] - own) < 1e-6);
  CHECK(std::abs(left[2] - 1.0F / (1 + 5 * 7)) < 1e-6);
  CHECK(at::allclose(maps[0] + maps[1], at::ones_like(maps[0]), 0, 1e-6));
}

TEST_CASE("where masks overlap, the weights decide", "[masks]") {
  if (skipped()) return;
  Masks masks;
  masks.add(1, columns(0, 48));
  masks.add(3, columns(16, 64));
  const auto maps = prompt_masks(masks.request, 48, 64);  // the masks' own size: nothing is resized
  const std::vector<float> first = row(maps[0]), second = row(maps[1]);
  for (int x = 0; x < 64; ++x) {
    CHECK(first[x] == (x < 16 ? 1.F : x < 48 ? 0.25F : 0.F));
    CHECK(first[x] + second[x] == 1.F);
  }
}

TEST_CASE("a prompt without a mask fills what a mask leaves", "[masks]") {
  if (skipped()) return;
  Masks masks;
  masks.add(1, columns(0, 32));
  masks.add(1e-9);
  const auto maps = prompt_masks(masks.request, 48, 64);
  const std::vector<float> filling = row(maps[1]);
  CHECK(std::abs(filling[0] - 1e-9F) < 1e-15);
  CHECK(filling[63] == 1.F);
}

TEST_CASE("masks are resized as torch does it", "[masks]") {
  if (skipped()) return;
  // F.interpolate(levels / 255, size, mode="bilinear", antialias=True, align_corners=False) of torch 2.11.
  const std::vector<float> smaller{0.434479F, 0.362872F, 0.429150F, 0.488497F, 0.554775F, 0.483168F};
  const std::vector<float> larger_row{0.483660F, 0.547141F, 0.595997F, 0.268382F,
                                      0.149918F, 0.240605F, 0.331291F, 0.394771F};
  const at::Tensor levels = (at::arange(35) * 37 % 256).view({7, 5});
  Masks masks;
  masks.add(1, levels);
  masks.add(1, 255 - levels);  // with it the sum is 1, and the share is the mask itself
  const at::Tensor small = prompt_masks(masks.request, 3, 2)[0];
  CHECK(at::allclose(small.flatten(), at::tensor(smaller), 0, 1e-5));
  const at::Tensor large = prompt_masks(masks.request, 9, 8)[0];
  CHECK(at::allclose(large[0][0][0][1], at::tensor(larger_row), 0, 1e-5));
}

TEST_CASE("a place without a prompt is bad data", "[masks]") {
  if (skipped()) return;
  Masks masks;
  masks.add(1, columns(0, 24));
  masks.add(1, columns(32, 64));
  const Failure part = failure_of([&] { prompt_masks(masks.request, 48, 64); });
  CHECK(part.code == ExitCode::bad_data);
  CHECK_THAT(part.message,
             Contains("the masks of request.prompts leave 12.5 % of the picture without a prompt; "));
  Masks black;
  black.add(1, at::zeros({3, 3}));
  CHECK_THAT(failure_of([&] { prompt_masks(black.request, 4, 4); }).message, Contains("leave 100 % of"));
}

TEST_CASE("a mask that is not there", "[masks]") {
  RequestConfig request;
  request.prompts.push_back({.text = "a", .mask = "/nowhere/mask.png"});
  for (const Failure& failure :
       {failure_of([&] { masks_identity(request); }), failure_of([&] { prompt_masks(request, 2, 2); })}) {
    if (failure.code == ExitCode::config && !can_read_image()) continue;
    CHECK(failure.code == ExitCode::missing_file);
    CHECK_THAT(failure.message, Contains("/nowhere/mask.png"));
  }
}

TEST_CASE("masks are the same where their files are", "[masks]") {
  if (skipped()) return;
  Masks masks;
  masks.add(1, columns(0, 32));
  masks.add(1);
  const std::string before = masks_identity(masks.request);
  CHECK(before == masks_identity(masks.request));
  CHECK(before.size() == 16 + 5);
  CHECK(before.ends_with(" none"));
  std::filesystem::remove(masks.file(0));
  put(masks.file(0), "another");
  CHECK(before != masks_identity(masks.request));
}

}  // namespace frameshard
