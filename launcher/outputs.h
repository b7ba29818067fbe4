// The files of one finished video: video.mp4, preview.png, latents.safetensors, metrics.jsonl.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/config.h"
#include "core/io/video_writer.h"
#include "models/rebalance.h"
#include "parallel/comm/communicator.h"

namespace frameshard {

struct OutputSettings {
  int fps = 16;
  int64_t width = 0, height = 0, frames = 0;
  std::map<std::string, std::string> metadata;
};

/// One video while it is written: video.mp4, and preview.png, a strip of up to 6 frames. Without finish() no
/// video is left: what stands beside it is written before.
class VideoOutput {
 public:
  VideoOutput(const std::filesystem::path& directory, const OutputSettings& settings);
  /// Appends frames: bytes [n, H, W, 3] on the CPU.
  void write(const at::Tensor& frames);
  void write_preview() const;
  void finish() { writer_.finish(); }

 private:
  std::filesystem::path directory_;
  VideoWriter writer_;
  int64_t frames_, done_ = 0;
  std::vector<at::Tensor> strip_;
};

/// The files of a finished video, itself first.
inline constexpr const char* video_files[] = {"video.mp4",         "preview.png",   "latents.safetensors",
                                              "noise.safetensors", "metrics.jsonl", "run.yaml",
                                              "trace.json"};

/// Removes what an earlier run left, the video first: it must not stand beside new files.
void remove_old_outputs(const std::filesystem::path& directory);

/// Key `latents`, [1, C, F, h, w] float32.
void write_latents(const at::Tensor& latents, const std::filesystem::path& file);

/// What one rank measured while it made one video.
struct RankMetrics {
  std::vector<double> step_seconds;
  double first_step_seconds = 0;  ///< from the start of the process to the end of its first denoising step
  double text_seconds = 0, load_seconds = 0, denoise_seconds = 0, decode_seconds = 0;
  double cp_bytes = 0, cfg_bytes = 0;  ///< sent to other ranks of the group while denoising
  double exchange_seconds = 0;
  double steps_reused = 0;                 ///< of the steps, those that a step cache answered for
  std::vector<ShareChange> share_changes;  ///< the same on every rank of the replica
  double load_peak_bytes = 0, denoise_peak_bytes = 0, decode_peak_bytes = 0;

  double peak_bytes() const { return std::max({load_peak_bytes, denoise_peak_bytes, decode_peak_bytes}); }
};

/// Gathers every rank's metrics; the first rank of the group writes metrics.jsonl. Collective.
void write_metrics(const RankMetrics& mine, Communicator& replica, const std::filesystem::path& directory);

}  // namespace frameshard
