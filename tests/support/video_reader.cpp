#include "tests/support/video_reader.h"

#include <memory>

#include "core/error.h"

#ifdef FRAMESHARD_HAVE_LIBAV

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

namespace frameshard::testing {
namespace {

struct Close {
  void operator()(AVFormatContext* container) const { avformat_close_input(&container); }
  void operator()(AVCodecContext* codec) const { avcodec_free_context(&codec); }
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
  void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};
using Container = std::unique_ptr<AVFormatContext, Close>;
using Codec = std::unique_ptr<AVCodecContext, Close>;

void check(int error, const std::filesystem::path& path, const char* operation) {
  if (error < 0) fail(ExitCode::bad_data, "cannot {} {}: error {} of libav", operation, path.string(), error);
}

Container open_container(const std::filesystem::path& path) {
  AVFormatContext* container = nullptr;
  const std::string url = "file:" + path.string();
  if (avformat_open_input(&container, url.c_str(), nullptr, nullptr) < 0) {
    fail(ExitCode::missing_file, "cannot open {} as a video", path.string());
  }
  Container opened(container);
  check(avformat_find_stream_info(container, nullptr), path, "read the streams of");
  return opened;
}

Codec open_decoder(const AVStream& stream, const std::filesystem::path& path) {
  const AVCodec* decoder = avcodec_find_decoder(stream.codecpar->codec_id);
  if (decoder == nullptr) fail(ExitCode::config, "no decoder for {}", path.string());
  Codec codec(avcodec_alloc_context3(decoder));
  check(avcodec_parameters_to_context(codec.get(), stream.codecpar), path, "set up the decoder of");
  check(avcodec_open2(codec.get(), decoder, nullptr), path, "open the decoder of");
  return codec;
}

std::string text(const char* name) {
  return name == nullptr ? "unknown" : name;
}

DecodedVideo describe(const AVFormatContext& container, const AVStream& stream) {
  const AVCodecParameters& codec = *stream.codecpar;
  DecodedVideo video;
  video.width = codec.width;
  video.height = codec.height;
  video.fps = av_q2d(stream.avg_frame_rate);
  video.seconds = static_cast<double>(container.duration) / AV_TIME_BASE;
  video.codec = avcodec_get_name(codec.codec_id);
  video.pixel_format = text(av_get_pix_fmt_name(static_cast<AVPixelFormat>(codec.format)));
  video.colours = text(av_color_range_name(codec.color_range)) + "/" +
                  text(av_color_space_name(codec.color_space)) + "/" +
                  text(av_color_primaries_name(codec.color_primaries)) + "/" +
                  text(av_color_transfer_name(codec.color_trc));
  const AVDictionaryEntry* entry = nullptr;
  while ((entry = av_dict_get(container.metadata, "", entry, AV_DICT_IGNORE_SUFFIX)) != nullptr) {
    video.metadata[entry->key] = entry->value;
  }
  return video;
}

std::vector<std::uint8_t> to_rgb(const AVFrame& frame) {
  constexpr int kFlags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT;
  std::unique_ptr<SwsContext, Close> scaler(
      sws_getContext(frame.width, frame.height, static_cast<AVPixelFormat>(frame.format), frame.width,
                     frame.height, AV_PIX_FMT_RGB24, kFlags, nullptr, nullptr, nullptr));
  const int* matrix =
      sws_getCoefficients(frame.colorspace == AVCOL_SPC_BT709 ? SWS_CS_ITU709 : SWS_CS_ITU601);
  sws_setColorspaceDetails(scaler.get(), matrix, frame.color_range == AVCOL_RANGE_JPEG, matrix, 1, 0, 1 << 16,
                           1 << 16);
  // swscale writes whole vectors, so the rows it fills need padding.
  std::unique_ptr<AVFrame, Close> rgb(av_frame_alloc());
  rgb->format = AV_PIX_FMT_RGB24;
  rgb->width = frame.width;
  rgb->height = frame.height;
  require(av_frame_get_buffer(rgb.get(), 0) >= 0, "out of memory for a decoded frame");
  sws_scale(scaler.get(), frame.data, frame.linesize, 0, frame.height, rgb->data, rgb->linesize);
  std::vector<std::uint8_t> pixels;
  for (int y = 0; y < frame.height; ++y) {
    const std::uint8_t* row = rgb->data[0] + static_cast<std::ptrdiff_t>(y) * rgb->linesize[0];
    pixels.insert(pixels.end(), row, row + std::ptrdiff_t{3} * frame.width);
  }
  return pixels;
}

/// Decodes what one packet (none: the end of the stream) completes.
void decode(AVCodecContext& codec, const AVPacket* packet, const std::filesystem::path& path,
            DecodedVideo& video) {
  check(avcodec_send_packet(&codec, packet), path, "decode");
  std::unique_ptr<AVFrame, Close> frame(av_frame_alloc());
  for (;;) {
    const int error = avcodec_receive_frame(&codec, frame.get());
    if (error == AVERROR(EAGAIN) || error == AVERROR_EOF) return;
    check(error, path, "decode");
    video.frames.push_back(to_rgb(*frame));
  }
}

}  // namespace

DecodedVideo read_video(const std::filesystem::path& path) {
  const Container container = open_container(path);
  const int index = av_find_best_stream(container.get(), AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  check(index, path, "find the video in");
  const AVStream& stream = *container->streams[index];
  const Codec codec = open_decoder(stream, path);
  DecodedVideo video = describe(*container, stream);
  std::unique_ptr<AVPacket, Close> packet(av_packet_alloc());
  int error = 0;
  while ((error = av_read_frame(container.get(), packet.get())) >= 0) {
    if (packet->stream_index == index) decode(*codec, packet.get(), path, video);
    av_packet_unref(packet.get());
  }
  if (error != AVERROR_EOF) check(error, path, "read");
  decode(*codec, nullptr, path, video);
  return video;
}

}  // namespace frameshard::testing

#else

namespace frameshard::testing {

DecodedVideo read_video(const std::filesystem::path& path) {
  fail(ExitCode::config, "cannot read {}: this build has no video support", path.string());
}

}  // namespace frameshard::testing

#endif
