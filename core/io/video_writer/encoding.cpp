#ifdef FRAMESHARD_HAVE_LIBAV

#include "core/io/video_writer/encoding.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace frameshard::libav {
namespace {

/// Every H.264 encoder of this libav, best first. Which of them works is known only by opening it: hardware
/// encoders are listed on machines without the hardware.
std::vector<const AVCodec*> h264_encoders() {
  std::vector<const AVCodec*> found;
  void* position = nullptr;
  while (const AVCodec* codec = av_codec_iterate(&position)) {
    if (codec->id == AV_CODEC_ID_H264 && av_codec_is_encoder(codec)) found.push_back(codec);
  }
  const auto rank = [](const AVCodec* codec) {
    const std::string_view name = codec->name;
    return name == "libx264" ? 0 : name == "libopenh264" ? 1 : 2;
  };
  std::stable_sort(found.begin(), found.end(), [&](auto* a, auto* b) { return rank(a) < rank(b); });
  return found;
}

void describe_pictures(AVCodecContext& codec, const VideoFormat& format) {
  codec.width = format.width;
  codec.height = format.height;
  codec.pix_fmt = AV_PIX_FMT_YUV420P;
  codec.sample_aspect_ratio = {1, 1};
  codec.time_base = {1, format.fps};
  codec.framerate = {format.fps, 1};
  codec.color_range = AVCOL_RANGE_MPEG;
  codec.color_primaries = AVCOL_PRI_BT709;
  codec.color_trc = AVCOL_TRC_BT709;
  codec.colorspace = AVCOL_SPC_BT709;
  codec.chroma_sample_location = AVCHROMA_LOC_LEFT;
}

/// Opens one encoder; the error code of libav when it does not work here.
int open_encoder(const AVCodec* encoder, const VideoFormat& format, Codec& opened) {
  Codec codec = allocated(Codec(avcodec_alloc_context3(encoder)), "the encoder");
  describe_pictures(*codec, format);
  // One thread and no CPU-dependent shortcuts: the same frames give the same bytes on every machine.
  codec->thread_count = 1;
  codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_BITEXACT;
  Options options;
  if (std::string_view(encoder->name) == "libx264") {
    options.set("preset", "medium");
    options.set("crf", "18");
    options.set("x264-params", "cpu-independent=1");
  } else {
    // The others know no constant quality in common; a fifth of a bit a pixel looks much the same.
    codec->bit_rate = std::int64_t{format.width} * format.height * format.fps / 5;
  }
  const int error = avcodec_open2(codec.get(), encoder, &options.entries);
  if (error >= 0) opened = std::move(codec);
  return error;
}

}  // namespace

Codec open_any_encoder(const std::string& path, const VideoFormat& format) {
  std::string tried;
  for (const AVCodec* encoder : h264_encoders()) {
    Codec codec;
    const int error = open_encoder(encoder, format, codec);
    if (codec) return codec;
    tried += fmt::format("{}{} ({})", tried.empty() ? "" : ", ", encoder->name, reason(error));
  }
  if (tried.empty()) {
    fail(ExitCode::config,
         "cannot write {}: the installed libavcodec has no H.264 encoder; install one that is built with "
         "libx264",
         path);
  }
  fail(
      ExitCode::config,
      "cannot write {}: no H.264 encoder takes {}x{} at {} frames a second; tried {}; choose another size or "
      "install a libavcodec that is built with libx264",
      path, format.width, format.height, format.fps, tried);
}

Scaler make_scaler(int width, int height) {
  constexpr int kFlags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INP;
  Scaler scaler = allocated(Scaler(sws_getContext(width, height, AV_PIX_FMT_RGB24, width, height,
                                                  AV_PIX_FMT_YUV420P, kFlags, nullptr, nullptr, nullptr)),
                            "the colour conversion");
  // swscale would otherwise use BT.601, whatever the file is tagged.
  const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
  constexpr int kOne = 1 << 16;
  sws_setColorspaceDetails(scaler.get(), bt709, 1, bt709, 0, 0, kOne, kOne);
  return scaler;
}

Frame make_frame(AVPixelFormat pixels, int width, int height) {
  Frame frame = allocated(Frame(av_frame_alloc()), "a frame");
  frame->format = pixels;
  frame->width = width;
  frame->height = height;
  if (av_frame_get_buffer(frame.get(), 0) < 0)
    fail(ExitCode::out_of_memory, "out of host memory for a frame");
  return frame;
}

}  // namespace frameshard::libav

#endif
