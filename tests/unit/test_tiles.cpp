// A picture in tiles: where they lie, how their seams are blended, and what is decoded from them.
#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/checkpoint.h"
#include "models/tiled_decode.h"
#include "parallel/comm/self.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_folder.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

// What has been finished, put together; unfinished pixels stay NaN.
struct Canvas {
  at::Tensor picture;
  explicit Canvas(at::IntArrayRef shape) : picture(at::full(shape, NAN)) {}
  FinishedPart part() {
    return [this](const Area& area, const at::Tensor& frames) {
      at::Tensor place = picture.narrow(3, area.top, area.height).narrow(4, area.left, area.width);
      CHECK(place.isnan().all().item<bool>());  // nobody was here before
      place.copy_(frames);
    };
  }
};

at::Tensor cut(const at::Tensor& picture, const Area& area) {
  return picture.narrow(3, area.top, area.height).narrow(4, area.left, area.width).clone();
}

// Tiles of one value each, blended: scale 1.
at::Tensor blended(const TileGrid& grid, int64_t height, int64_t width, const std::vector<float>& values) {
  Canvas canvas({1, 3, 2, height, width});
  TileBlender blender(grid, 1, canvas.part());
  for (int64_t i = 0; i < grid.count(); ++i) {
    const Area area = grid.tile(i);
    blender.add(at::full({1, 3, 2, area.height, area.width}, values[size_t(i)]));
  }
  return canvas.picture;
}

std::vector<double> line(const at::Tensor& numbers) {
  const at::Tensor wide = numbers.to(at::kDouble).contiguous();
  return {wide.data_ptr<double>(), wide.data_ptr<double>() + wide.numel()};
}

// Every pixel of a latent is that latent's value, times 2 where the tile ends: what a VAE does to a border.
class BorderVae final : public Vae {
 public:
  using Vae::decode;
  void decode(const at::Tensor&, Rows, const std::function<void(const at::Tensor&)>&) const override {}
  void decode_unlimited(const at::Tensor& latents,
                        const std::function<void(const at::Tensor&)>& sink) const override {
    at::Tensor frames = latents.narrow(1, 0, 3).repeat_interleave(2, 3).repeat_interleave(2, 4);
    frames.narrow(3, frames.size(3) - 1, 1).mul_(2);
    for (const at::Tensor& frame : frames.split(1, 2)) sink(frame);
  }
  at::Tensor encode(const at::Tensor& frames) const override { return frames; }
};

}  // namespace

TEST_CASE("as many tiles a round as the slowest rank needs to have one") {
  CHECK(tiles_a_round(std::vector<double>{1}) == 1);
  CHECK(tiles_a_round(std::vector<double>{1, 1, 1}) == 3);
  CHECK(tiles_a_round(std::vector<double>{2, 1}) == 3);
  CHECK(tiles_a_round(std::vector<double>{1, 0}) == 1);
  CHECK(tiles_a_round(std::vector<double>{1e9, 1e-10}) == 4);
}

TEST_CASE("tiles lie every stride, and end with the picture") {
  const TileGrid grid(50, 30, {});  // 30 is less than a tile, and yet there is a second one: as in diffusers
  CHECK(grid.count() == 6);
  CHECK(grid.tile(0) == Area{0, 0, 32, 30});
  CHECK(grid.tile(1) == Area{0, 24, 32, 6});
  CHECK(grid.tile(2) == Area{24, 0, 26, 30});
  CHECK(grid.tile(4) == Area{48, 0, 2, 30});
  CHECK(grid.owned(0) == Area{0, 0, 24, 24});
  CHECK(grid.owned(3) == Area{24, 24, 24, 6});
  CHECK(grid.owned(5) == Area{48, 24, 2, 6});
  CHECK(TileGrid(90, 160, {}).count() == 28);  // 1280x720
  CHECK(TileGrid::divides(33, 8, {}));
  CHECK_FALSE(TileGrid::divides(32, 32, {}));
  CHECK(caught([] { TileGrid(40, 40, {.size = 32, .stride = 15}); }).code == ExitCode::internal);
}

TEST_CASE("the next tile fades in along the overlap") {
  // Tiles of 4 every 3 over 7: at 0, 3 and 6; one pixel of overlap is all of the former.
  const TileGrid thin(1, 7, {.size = 4, .stride = 3});
  CHECK(line(blended(thin, 1, 7, {0.1F, 0.2F, 0.4F})[0][2][1][0]) ==
        line(at::tensor({0.1F, 0.1F, 0.1F, 0.1F, 0.2F, 0.2F, 0.2F})));
  // Tiles of 8 every 4 over 10: at 0, 4 and 8; the last one is 2 wide, and fades in over 2.
  const TileGrid wide(1, 10, {.size = 8, .stride = 4});
  const auto got = line(blended(wide, 1, 10, {0.0F, 0.8F, 0.0F})[0][0][0][0]);
  const std::vector<double> wanted{0, 0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 0.4};
  REQUIRE(got.size() == wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) CHECK(std::abs(got[i] - wanted[i]) < 1e-6);
}

TEST_CASE("four tiles meet in a corner") {
  const TileGrid grid(6, 6, {.size = 4, .stride = 2});  // 3 x 3, the last ones 2 wide
  const std::vector<float> values{0.F, 0.8F, 0.F, 0.4F, 0.F, 0.F, 0.F, 0.F, 0.F};
  const at::Tensor picture = blended(grid, 6, 6, values)[0][0][0];
  // Down: half of each. Across: what comes from above was blended across before, and is once more.
  CHECK(std::abs(picture[3][3].item<float>() - 0.5 * (0.5 * 0.5 * 0.8 + 0.5 * 0.4)) < 1e-6);
  CHECK(std::abs(picture[1][3].item<float>() - 0.4) < 1e-6);
  CHECK(std::abs(picture[2][3].item<float>() - 0.2) < 1e-6);
  CHECK(std::abs(picture[3][1].item<float>() - 0.2) < 1e-6);
}

TEST_CASE("the sum is limited, not the tiles") {
  const TileGrid grid(1, 4, {.size = 3, .stride = 2});
  CHECK(line(blended(grid, 1, 4, {3.F, -5.F})[0][0][0][0]) == std::vector<double>{1, 1, 1, -1});
  const TileGrid half(1, 6, {.size = 4, .stride = 2});
  // 0.5 * 1.5 + 0.5 * -0.5; of limited tiles it would be 0.25
  CHECK(std::abs(line(blended(half, 1, 6, {1.5F, -0.5F, -0.5F})[0][0][0][0])[3] - 0.5) < 1e-6);
}

TEST_CASE("tiles of one picture make the picture, whatever its size") {
  for (int64_t height = 1; height <= 14; ++height) {
    for (const int64_t width : {1, 5, 6, 13}) {
      const at::Tensor picture = initial_noise({1, 3, 2, 2 * height, 2 * width}, 7).clamp(-1, 1);
      const TileGrid grid(height, width, {.size = 5, .stride = 3});
      Canvas canvas(picture.sizes());
      TileBlender blender(grid, 2, canvas.part());
      for (int64_t i = 0; i < grid.count(); ++i) {
        const Area a = grid.tile(i);
        blender.add(cut(picture, {2 * a.top, 2 * a.left, 2 * a.height, 2 * a.width}));
      }
      REQUIRE((canvas.picture - picture).abs().max().item<float>() < 1e-6F);
    }
  }
}

TEST_CASE("a VAE's tiles are decoded by themselves and blended") {
  const at::Tensor latents = initial_noise({1, 4, 3, 7, 5}, 3) * 0.3;
  Canvas canvas({1, 3, 3, 14, 10});
  decode_tiled(BorderVae(), latents, {.size = 4, .stride = 3}, {*make_self_communicator()}, canvas.part());
  // In rows 6 and 7 the first tile's, whose last row is doubled, goes over into the second's.
  const at::Tensor plain = latents.narrow(1, 0, 3).repeat_interleave(2, 3).repeat_interleave(2, 4);
  at::Tensor wanted = plain.clone();
  wanted.select(3, 7).mul_(1.5);
  // The second tile ends with row 13, where the third begins: it is 2 rows high.
  wanted.select(3, 13).mul_(2);
  CHECK((canvas.picture - wanted.clamp(-1, 1)).abs().max().item<float>() < 1e-6F);
}

TEST_CASE("a picture of one tile is decoded as without tiles") {
  const c10::NoGradGuard no_grad;
  const Scratch scratch;
  testing::write_random_folder(scratch.path(), {}, FRAMESHARD_SOURCE_DIR "/examples/shapes/tokenizer");
  const auto vae = open_checkpoint(scratch.path())->load_vae({at::kFloat, at::kCPU});
  const at::Tensor latents = initial_noise({1, 16, 2, 3, 4}, 5);
  Canvas canvas({1, 3, 5, 24, 32});
  decode_tiled(*vae, latents, {}, {*make_self_communicator()}, canvas.part());
  std::vector<at::Tensor> whole;
  vae->decode(latents, [&](const at::Tensor& frames) { whole.push_back(frames); });
  CHECK(at::equal(canvas.picture, at::cat(whole, 2)));
}

TEST_CASE("a NaN in a tile ends the decoding with its frame") {
  at::Tensor latents = at::zeros({1, 4, 3, 7, 5});
  latents[0][1][2][6][4] = NAN;
  const auto error = caught([&] {
    decode_tiled(BorderVae(), latents, {.size = 4, .stride = 3}, {*make_self_communicator()},
                 [](const Area&, const at::Tensor&) {});
  });
  CHECK(error.code == ExitCode::not_finite);
  CHECK(error.message == "the VAE made a NaN or Inf near frame 2; try model.vae_dtype=float32");
}
