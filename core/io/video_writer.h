// Videos as H.264 in MP4.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

namespace frameshard {

/// What a video file says about itself.
struct VideoFormat {
  int width = 0;   ///< pixels, even
  int height = 0;  ///< pixels, even
  int fps = 0;     ///< frames per second, constant
  /// Stored in the file under these very keys ("title", "prompt", "seed", ...); UTF-8 without NUL.
  std::map<std::string, std::string> metadata;
};

/// Writes one video: H.264, yuv420p, BT.709, index at the front. The same frames and format give the same
/// bytes. The file appears under its final name only after finish(); without it nothing is left behind.
/// After any failure the file is gone and the writer cannot be used again. Not thread-safe.
class VideoWriter {
 public:
  /// Fails with ExitCode::config for sizes or rates that cannot be encoded, without an H.264 encoder and in a
  /// build without libav; with ExitCode::io when the file cannot be created.
  VideoWriter(std::filesystem::path final_mp4, VideoFormat format);
  ~VideoWriter();

  VideoWriter(const VideoWriter&) = delete;
  VideoWriter& operator=(const VideoWriter&) = delete;

  /// Appends one frame: rows from the top, three bytes (R, G, B) a pixel, no padding. Fails with ExitCode::io
  /// when the disk is full or cannot be written, ExitCode::internal for a frame of another size.
  void write(std::span<const std::uint8_t> rgb24_frame);

  /// Completes the file and gives it its final name; at least one frame must have been written. Fails as
  /// write() does.
  void finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace frameshard
