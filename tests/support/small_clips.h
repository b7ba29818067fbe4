// Small videos and pictures whose frames can be told apart, written with the engine's own writers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/io/clip_reader.h"
#include "core/io/png_writer.h"
#include "core/io/video_writer.h"
#include "tests/support/catch.h"

namespace frameshard::test {

/// True, visibly, in a build that cannot write or read them.
inline bool no_clips() {
  const bool missing = !can_read_clip() || !can_write_png();
  if (missing) WARN("not run: built without libav or libpng");
  return missing;
}

/// Brightness of a frame of write_clip().
inline int level_of(int frame) {
  return 40 + 15 * (frame % 14);
}

/// An MP4 whose frames are gray, each of its level, with a red left third.
inline void write_clip(const std::filesystem::path& file, int frames, int width = 48, int height = 32) {
  VideoWriter writer(file, {.width = width, .height = height, .fps = 8, .metadata = {}});
  std::vector<std::uint8_t> picture(std::size_t(3 * width * height));
  for (int i = 0; i < frames; ++i) {
    for (std::size_t k = 0; k < picture.size(); ++k) {
      const bool red = int(k / 3) % width < width / 3;
      picture[k] = std::uint8_t(!red ? level_of(i) : k % 3 == 0 ? 220 : 20);
    }
    writer.write(picture);
  }
  writer.finish();
}

/// A PNG with (x, y, 7) as colours.
inline void write_picture(const std::filesystem::path& file, int width = 48, int height = 32) {
  std::vector<std::uint8_t> pixels;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) pixels.insert(pixels.end(), {std::uint8_t(x), std::uint8_t(y), 7});
  }
  write_png(file, width, height, pixels);
}

}  // namespace frameshard::test
