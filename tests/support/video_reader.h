// Reads a whole video back, for tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace frameshard::testing {

struct DecodedVideo {
  int width = 0;       ///< pixels
  int height = 0;      ///< pixels
  double fps = 0;      ///< frames per second, averaged over the file
  double seconds = 0;  ///< length that the container states
  std::map<std::string, std::string>
      metadata;              ///< the file's own and what the container adds (major_brand...)
  std::string codec;         ///< "h264"
  std::string pixel_format;  ///< "yuv420p"
  std::string colours;       ///< "range/matrix/primaries/transfer", such as "tv/bt709/bt709/bt709"
  std::vector<std::vector<std::uint8_t>> frames;  ///< rgb24, rows from the top, no padding
};

/// Decodes every frame of the first video stream. Fails with ExitCode::missing_file when the file cannot be
/// opened, ExitCode::bad_data when it cannot be decoded, ExitCode::config in a build without libav.
DecodedVideo read_video(const std::filesystem::path& path);

}  // namespace frameshard::testing
