// Single pictures, read as brightness.
#pragma once

#include <cstdint>
#include <filesystem>

#include <ATen/ATen.h>

namespace frameshard {

/// Pixels of the largest picture that is read.
inline constexpr int64_t most_pixels = 64'000'000;

/// False in a build without libav.
bool can_read_image();

/// A picture's brightness, [height, width] float32 on the CPU: 0 is black, 1 is white, in steps of 1/255. A
/// colour counts with BT.601's weights, 0.299 R + 0.587 G + 0.114 B, of the values as stored. PNG, JPEG and
/// whatever else libav reads as single pictures; of an animated GIF or PNG the first frame.
/// Transparency is ignored: the colour below it counts, so a mask that lies in the alpha channel alone has to
/// be made gray first. So is a camera's note on how to turn the picture.
/// Fails with ExitCode::missing_file where there is no such file, ExitCode::io where it cannot be read,
/// ExitCode::bad_data where it is broken, no picture (a video is none) or has more than most_pixels,
/// ExitCode::config in a build without libav.
at::Tensor read_gray_image(const std::filesystem::path& file);

}  // namespace frameshard
