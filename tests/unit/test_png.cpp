// Pictures: what is written is what is read back, and nothing half-written stays.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/error.h"
#include "core/io/png_writer.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"

#ifdef FRAMESHARD_HAVE_PNG
#include <png.h>
#endif

namespace frameshard {
namespace {

namespace fs = std::filesystem;
using namespace test;
using Pixels = std::vector<std::uint8_t>;

}  // namespace

#ifdef FRAMESHARD_HAVE_PNG

namespace {

struct Picture {
  int width = 0;
  int height = 0;
  Pixels pixels;
};

Picture read_png(const fs::path& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  require(png_image_begin_read_from_file(&image, path.c_str()) != 0, "not a PNG: {}", image.message);
  require(image.format == PNG_FORMAT_RGB, "not RGB of 8 bits");
  Picture picture{static_cast<int>(image.width), static_cast<int>(image.height), {}};
  picture.pixels.resize(PNG_IMAGE_SIZE(image));
  require(png_image_finish_read(&image, nullptr, picture.pixels.data(), 0, nullptr) != 0, "{}",
          image.message);
  return picture;
}

}  // namespace

TEST_CASE("a PNG holds exactly the pixels that were written", "[png]") {
  const Scratch scratch;
  const auto [width, height] = GENERATE(std::pair{1, 1}, std::pair{7, 3}, std::pair{64, 33});
  Pixels pixels;
  for (int i = 0; i < 3 * width * height; ++i) pixels.push_back(static_cast<std::uint8_t>(i * 37 + i / 5));
  write_png(scratch / "out.png", width, height, pixels);
  const Picture picture = read_png(scratch / "out.png");
  CHECK(picture.width == width);
  CHECK(picture.height == height);
  CHECK(picture.pixels == pixels);
  write_png(scratch / "again.png", width, height, pixels);
  CHECK((contents(scratch / "out.png") == contents(scratch / "again.png")));
  CHECK(scratch.names() == std::set<std::string>{"again.png", "out.png"});
}

TEST_CASE("a PNG that cannot be written", "[png]") {
  const Scratch scratch;
  std::ofstream(scratch / "file") << "x";
  const fs::path below = scratch / "file" / "out.png";
  const Failure place = failure_of([&] { write_png(below, 1, 1, Pixels(3)); });
  CHECK(place.code == ExitCode::io);
  CHECK_THAT(place.message, Contains("cannot create " + below.string()) && Contains("Not a directory"));

  const Failure size = failure_of([&] { write_png(scratch / "out.png", 2, 2, Pixels(3)); });
  CHECK(size.code == ExitCode::internal);
  CHECK_THAT(size.message, Contains("a picture of 2x2 cannot have 3 bytes"));
  CHECK(scratch.names() == std::set<std::string>{"file"});
}

#else

TEST_CASE("without libpng a PNG is a configuration error that names the package", "[png]") {
  const Scratch scratch;
  const Failure failure = failure_of([&] { write_png(scratch / "out.png", 1, 1, Pixels(3)); });
  CHECK(failure.code == ExitCode::config);
  CHECK_THAT(failure.message, Contains((scratch / "out.png").string()) && Contains("libpng-dev"));
}

#endif

}  // namespace frameshard
