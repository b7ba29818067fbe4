// Videos and pictures, read as RGB frames of a wanted size.
#pragma once

#include <cstdint>
#include <filesystem>

#include <ATen/ATen.h>

namespace frameshard {

/// False in a build without libav.
bool can_read_clip();

struct ClipInfo {
  int64_t frames = 0;  ///< that the file holds whole; a few more than can be decoded in rare formats
  int64_t width = 0, height = 0;  ///< of the first frame, as stored
  bool is_image = false;          ///< PNG, JPEG, WebP, BMP ..., or a GIF or APNG of one frame
};

/// Decodes the first frame and counts the others: MP4, MOV, Matroska, WebM, AVI, GIF, APNG and single
/// pictures, by their bytes, whatever their names say. A clip that is cut off counts as far as it is there.
/// 66 where there is no such file, 65 where its kind is another, the first frame cannot be decoded or has
/// more than 64 million pixels, 74 where it cannot be read, 78 in a build without libav.
ClipInfo clip_info(const std::filesystem::path& file);

struct ClipWanted {
  int64_t frames = 1, height = 0, width = 0;
};

/// The first frames, bytes [frames, 3, height, width], RGB, on the CPU: scaled (bicubic, with the form kept)
/// so that they cover height x width, of which the middle is taken. Pixels count as square, transparency and
/// a camera's note on how to turn the picture are ignored. What is damaged behind the wanted frames does no
/// harm. Fails as clip_info() does, and with 65 where there are fewer frames or one of them is damaged.
at::Tensor read_clip(const std::filesystem::path& file, const ClipWanted& wanted);

}  // namespace frameshard
