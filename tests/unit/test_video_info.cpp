// What a video file says without being decoded: whole files, and files that end too early.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/io/video_info.h"
#include "core/io/video_writer.h"
#include "tests/support/catch.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::contents;
using frameshard::test::Scratch;

namespace {

void write_video(const std::filesystem::path& file, int frames) {
  VideoWriter writer(
      file,
      {.width = 32, .height = 32, .fps = 8, .metadata = {{"config_hash", "00ff"}, {"prompt", "é: \"x\""}}});
  std::vector<std::uint8_t> picture(32 * 32 * 3);
  for (int i = 0; i < frames; ++i) {
    for (std::size_t k = 0; k < picture.size(); ++k) picture[k] = std::uint8_t(k * 7 + std::size_t(i) * 31);
    writer.write(picture);
  }
  writer.finish();
}

bool skipped() {
  if (!can_read_video()) WARN("not run: built without libav");
  return !can_read_video();
}

}  // namespace

TEST_CASE("frames and metadata of a whole video") {
  if (skipped()) return;
  const Scratch scratch;
  for (int frames : {1, 5, 33}) {
    const auto file = scratch / "a video: 1.mp4";
    write_video(file, frames);
    const auto info = read_video_info(file);
    REQUIRE(info);
    CHECK(info->frames == frames);
    CHECK(info->metadata.at("config_hash") == "00ff");
    CHECK(info->metadata.at("prompt") == "é: \"x\"");
  }
}

TEST_CASE("a video that ends early is no video") {
  if (skipped()) return;
  const Scratch scratch;
  write_video(scratch / "whole.mp4", 9);
  const std::string whole = contents(scratch / "whole.mp4");
  for (const std::size_t size : {std::size_t{0}, std::size_t{10}, whole.size() / 10, whole.size() / 2,
                                 whole.size() - 100, whole.size() - 1}) {
    INFO(size << " of " << whole.size() << " bytes");
    std::ofstream(scratch / "cut.mp4", std::ios::binary) << whole.substr(0, size);
    CHECK_FALSE(read_video_info(scratch / "cut.mp4"));
  }
}

TEST_CASE("what is no video at all") {
  const Scratch scratch;
  CHECK_FALSE(read_video_info(scratch / "none.mp4"));
  CHECK_FALSE(read_video_info(scratch.path()));
  std::ofstream(scratch / "text.mp4") << "no video";
  CHECK_FALSE(read_video_info(scratch / "text.mp4"));
}
