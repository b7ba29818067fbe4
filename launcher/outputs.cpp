#include "launcher/outputs.h"

#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/io/png_writer.h"
#include "core/io/safetensors.h"
#include "core/log.h"
#include "core/trace.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

std::span<const uint8_t> bytes_of(const at::Tensor& tensor) {
  return {tensor.data_ptr<uint8_t>(), size_t(tensor.numel())};
}

constexpr int64_t strip_frames = 6;

// Whether frame i of n is one of up to 6 that lie evenly over the video.
bool in_strip(int64_t i, int64_t n) {
  const int64_t count = std::min(n, strip_frames);
  for (int64_t k = 0; k < count; ++k) {
    if (i == (count == 1 ? 0 : k * (n - 1) / (count - 1))) return true;
  }
  return false;
}

}  // namespace

VideoOutput::VideoOutput(const std::filesystem::path& directory, const OutputSettings& settings)
    : directory_(directory),
      writer_(directory / "video.mp4", {.width = int(settings.width),
                                        .height = int(settings.height),
                                        .fps = settings.fps,
                                        .metadata = settings.metadata}),
      frames_(settings.frames) {}

void VideoOutput::write(const at::Tensor& frames) {
  for (const at::Tensor& frame : frames.unbind()) {
    writer_.write(bytes_of(frame));
    if (in_strip(done_, frames_)) strip_.push_back(frame.clone());
    ++done_;
  }
}

void VideoOutput::write_preview() const {
  if (!can_write_png()) return log::warning("no preview.png: built without libpng");
  const at::Tensor strip = at::cat(strip_, 1).contiguous();  // [H, n*W, 3]
  write_png(directory_ / "preview.png", int(strip.size(1)), int(strip.size(0)), bytes_of(strip));
}

void remove_old_outputs(const std::filesystem::path& directory) {
  std::error_code ignored;
  for (const char* name : video_files) std::filesystem::remove(directory / name, ignored);
}

void write_latents(const at::Tensor& latents, const std::filesystem::path& file) {
  const TraceScope trace("write");
  write_safetensors(file, {{"latents", latents.to(at::kCPU, at::kFloat)}});
}

void write_metrics(const RankMetrics& mine, Communicator& replica, const std::filesystem::path& directory) {
  std::vector<double> numbers{mine.text_seconds,    mine.load_seconds,       mine.denoise_seconds,
                              mine.decode_seconds,  mine.exchange_seconds,   mine.cp_bytes,
                              mine.load_peak_bytes, mine.denoise_peak_bytes, mine.decode_peak_bytes,
                              mine.cfg_bytes,       mine.steps_reused,       mine.first_step_seconds};
  const size_t fixed = numbers.size();
  numbers.insert(numbers.end(), mine.step_seconds.begin(), mine.step_seconds.end());
  const auto all = gather_numbers(replica, numbers);
  if (replica.rank() != 0) return;
  std::string text;
  for (size_t step = 0; step < mine.step_seconds.size(); ++step) {
    Json line = {{"event", "step"}, {"step", step + 1}, {"seconds", Json::array()}};
    for (const auto& rank : all) line["seconds"].push_back(rank[fixed + step]);
    text += line.dump() + "\n";
  }
  for (const ShareChange& change : mine.share_changes) {
    text += Json({{"event", "rebalance"}, {"step", change.step}, {"shares", change.speeds}}).dump() + "\n";
  }
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const auto& n = all[rank];
    const Json line = {{"event", "rank"},
                       {"rank", rank},
                       {"first_step_seconds", n[11]},
                       {"text_seconds", n[0]},
                       {"load_seconds", n[1]},
                       {"denoise_seconds", n[2]},
                       {"decode_seconds", n[3]},
                       {"exchange_seconds", n[4]},
                       {"steps_reused", int64_t(n[10])},
                       {"bytes_sent", int64_t(n[5] + n[9])},
                       {"cp_bytes", int64_t(n[5])},
                       {"cfg_bytes", int64_t(n[9])},
                       {"load_peak_bytes", int64_t(n[6])},
                       {"denoise_peak_bytes", int64_t(n[7])},
                       {"decode_peak_bytes", int64_t(n[8])},
                       {"peak_bytes", int64_t(std::max({n[6], n[7], n[8]}))}};
    text += line.dump() + "\n";
  }
  write_file_atomically(directory / "metrics.jsonl", text);
}

}  // namespace frameshard
