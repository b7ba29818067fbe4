#include "core/io/video_info.h"

#ifdef FRAMESHARD_HAVE_LIBAV

#include "core/io/libav.h"

extern "C" {
#include <libavutil/log.h>
}

namespace frameshard {
namespace {

struct CloseInput {
  void operator()(AVFormatContext* context) const { avformat_close_input(&context); }
};
using Input = std::unique_ptr<AVFormatContext, CloseInput>;

Input open_input(const std::filesystem::path& file) {
  av_log_set_level(AV_LOG_FATAL);  // a broken file is an answer here, not an error
  AVFormatContext* context = nullptr;
  // "file:" keeps a colon in the path from naming a protocol.
  avformat_open_input(&context, ("file:" + file.string()).c_str(), nullptr, nullptr);
  return Input(context);
}

// The packets of a stream, one a frame; nothing where one of them is cut off.
std::optional<int64_t> count_packets(AVFormatContext& input, int stream) {
  const libav::Packet packet = libav::allocated(libav::Packet(av_packet_alloc()), "a packet");
  int64_t count = 0;
  int error = 0;
  while ((error = av_read_frame(&input, packet.get())) >= 0) {
    const bool cut = packet->flags & AV_PKT_FLAG_CORRUPT;
    if (packet->stream_index == stream) ++count;
    av_packet_unref(packet.get());
    if (cut) return std::nullopt;
  }
  return error == AVERROR_EOF ? std::optional(count) : std::nullopt;
}

}  // namespace

bool can_read_video() {
  return true;
}

std::optional<VideoInfo> read_video_info(const std::filesystem::path& file) {
  const Input input = open_input(file);
  if (!input) return std::nullopt;
  const int stream = av_find_best_stream(input.get(), AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  if (stream < 0) return std::nullopt;
  VideoInfo info;
  const AVDictionaryEntry* entry = nullptr;
  while ((entry = av_dict_get(input->metadata, "", entry, AV_DICT_IGNORE_SUFFIX)) != nullptr) {
    info.metadata[entry->key] = entry->value;
  }
  const auto frames = count_packets(*input, stream);
  if (!frames) return std::nullopt;
  info.frames = *frames;
  return info;
}

}  // namespace frameshard

#else

namespace frameshard {

bool can_read_video() {
  return false;
}

std::optional<VideoInfo> read_video_info(const std::filesystem::path&) {
  return std::nullopt;
}

}  // namespace frameshard

#endif
