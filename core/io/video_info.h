// What a finished video file says, without decoding it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace frameshard {

struct VideoInfo {
  int64_t frames = 0;                           ///< that are there whole
  std::map<std::string, std::string> metadata;  ///< the file's own and what the container adds
};

/// False in a build without libav.
bool can_read_video();

/// Nothing where the file is not there, is no video, or ends early.
std::optional<VideoInfo> read_video_info(const std::filesystem::path& file);

}  // namespace frameshard
