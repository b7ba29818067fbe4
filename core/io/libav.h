// What libav, a C library, needs to be used from C++: owners, messages and checked allocations. Only for a
// build with libav.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "core/error.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>
}

namespace frameshard::libav {

struct FreeAvio {
  void operator()(AVIOContext* context) const {
    av_freep(&context->buffer);
    avio_context_free(&context);
  }
};
struct FreeFormat {
  void operator()(AVFormatContext* context) const { avformat_free_context(context); }
};
struct FreeCodec {
  void operator()(AVCodecContext* context) const { avcodec_free_context(&context); }
};
struct FreeFrame {
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
};
struct FreePacket {
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
};
struct FreeScaler {
  void operator()(SwsContext* context) const { sws_freeContext(context); }
};
using Avio = std::unique_ptr<AVIOContext, FreeAvio>;
using Format = std::unique_ptr<AVFormatContext, FreeFormat>;
using Codec = std::unique_ptr<AVCodecContext, FreeCodec>;
using Frame = std::unique_ptr<AVFrame, FreeFrame>;
using Packet = std::unique_ptr<AVPacket, FreePacket>;
using Scaler = std::unique_ptr<SwsContext, FreeScaler>;

/// An option dictionary that is freed with its scope; libav functions replace the pointer inside.
struct Options {
  Options() = default;
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;
  ~Options() { av_dict_free(&entries); }
  void set(const char* key, const char* value) { av_dict_set(&entries, key, value, 0); }
  AVDictionary* entries = nullptr;
};

/// libav's words for an error code.
inline std::string reason(int error) {
  std::array<char, AV_ERROR_MAX_STRING_SIZE> buffer{};
  av_strerror(error, buffer.data(), buffer.size());
  return buffer.data();
}

/// `pointer`, which an allocation of libav returned; ExitCode::out_of_memory where it is null.
template <class Pointer>
Pointer allocated(Pointer pointer, const char* what) {
  if (!pointer) fail(ExitCode::out_of_memory, "out of host memory for {}", what);
  return pointer;
}

}  // namespace frameshard::libav
