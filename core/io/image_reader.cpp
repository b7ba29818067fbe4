#include "core/io/image_reader.h"

#include "core/error.h"

#ifdef FRAMESHARD_HAVE_LIBAV

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "core/io/text_file.h"
#include "core/io/video_writer/encoding.h"
#include "core/io/video_writer/libav.h"

extern "C" {
#include <libavutil/log.h>
#include <libavutil/pixdesc.h>
}

namespace frameshard {

using namespace libav;

namespace {

constexpr std::size_t kMostBytes = std::size_t{512} << 20;
constexpr const char* kWanted = "a PNG or JPEG picture of at most 64 million pixels is wanted";

struct CloseInput {
  void operator()(AVFormatContext* context) const { avformat_close_input(&context); }
};
using Input = std::unique_ptr<AVFormatContext, CloseInput>;

/// The file's bytes, as libav reads them. In memory: libav then sees no name, which it would take for a
/// protocol, a pattern of numbers or the file's kind.
struct Source {
  std::string bytes;
  std::size_t at = 0;
};

int read_source(void* opaque, std::uint8_t* to, int size) {
  auto& source = *static_cast<Source*>(opaque);
  const std::size_t count = std::min(source.bytes.size() - source.at, static_cast<std::size_t>(size));
  if (count == 0) return AVERROR_EOF;
  std::memcpy(to, source.bytes.data() + source.at, count);
  source.at += count;
  return static_cast<int>(count);
}

std::int64_t seek_source(void* opaque, std::int64_t offset, int whence) {
  auto& source = *static_cast<Source*>(opaque);
  const auto size = static_cast<std::int64_t>(source.bytes.size());
  if (whence & AVSEEK_SIZE) return size;
  whence &= ~AVSEEK_FORCE;
  if (whence == SEEK_CUR) offset += static_cast<std::int64_t>(source.at);
  if (whence == SEEK_END) offset += size;
  if (offset < 0 || offset > size) return AVERROR(EINVAL);
  source.at = static_cast<std::size_t>(offset);
  return offset;
}

/// Width and height of a picture that was refused, 0 where none was.
struct TooLarge {
  int width = 0;
  int height = 0;
};

bool is_too_large(int width, int height) {
  return std::int64_t{width} * height > most_pixels;
}

/// Refuses a picture before there is memory for it.
int get_small_buffer(AVCodecContext* codec, AVFrame* frame, int flags) {
  if (!is_too_large(frame->width, frame->height)) return avcodec_default_get_buffer2(codec, frame, flags);
  *static_cast<TooLarge*>(codec->opaque) = {frame->width, frame->height};
  return AVERROR(EINVAL);
}

class Reader {
 public:
  explicit Reader(const std::filesystem::path& file);
  Frame decode();

 private:
  void open_input();
  void open_decoder();
  bool receive(AVFrame* frame);
  void check(int error) const;
  void check_size(int width, int height) const;

  // Destroyed from the last to the first: the bytes go after all that reads them.
  std::string name_;
  Source source_;
  TooLarge refused_;
  Avio avio_;
  Input input_;
  Codec codec_;
};

Reader::Reader(const std::filesystem::path& file)
    : name_(file.string()), source_{read_text_file(file, kMostBytes, "a picture")} {
  if (source_.bytes.empty()) fail(ExitCode::bad_data, "{}: is empty; {}", name_, kWanted);
  if (source_.bytes.size() > kMostBytes) {
    fail(ExitCode::bad_data, "{}: has more than {} MiB; {}", name_, kMostBytes >> 20, kWanted);
  }
  open_input();
  open_decoder();
}

// libav calls its readers of single pictures "png_pipe", "jpeg_pipe" and so on.
bool is_picture(std::string_view format) {
  return format.ends_with("_pipe") || format == "gif" || format == "apng";
}

void Reader::open_input() {
  constexpr int kBufferSize = 1 << 16;
  auto* buffer = static_cast<std::uint8_t*>(allocated(av_malloc(kBufferSize), "the input buffer"));
  avio_.reset(avio_alloc_context(buffer, kBufferSize, 0, &source_, read_source, nullptr, seek_source));
  if (!avio_) av_free(buffer);
  allocated(avio_.get(), "the input");
  // Looked at before it is opened: lists of files, which libav would follow, are among the formats.
  decltype(AVFormatContext::iformat) format = nullptr;
  if (av_probe_input_buffer2(avio_.get(), &format, nullptr, nullptr, 0, 0) < 0) {
    fail(ExitCode::bad_data, "{}: is no picture that libav knows; {}", name_, kWanted);
  }
  if (!is_picture(format->name)) {
    fail(ExitCode::bad_data, "{}: is no picture but of the kind \"{}\"; {}", name_,
         format->long_name ? format->long_name : format->name, kWanted);
  }
  AVFormatContext* input = allocated(avformat_alloc_context(), "the input");
  input->pb = avio_.get();
  const int error = avformat_open_input(&input, nullptr, format, nullptr);  // frees it where it fails
  input_.reset(input);
  check(error);
}

void Reader::open_decoder() {
  if (input_->nb_streams == 0) fail(ExitCode::bad_data, "{}: holds no picture; {}", name_, kWanted);
  const AVCodecParameters& stream = *input_->streams[0]->codecpar;
  const AVCodec* decoder = avcodec_find_decoder(stream.codec_id);
  if (decoder == nullptr) {
    fail(ExitCode::bad_data, "{}: the installed libavcodec cannot decode {}; {}", name_,
         avcodec_get_name(stream.codec_id), kWanted);
  }
  codec_ = allocated(Codec(avcodec_alloc_context3(decoder)), "the decoder");
  check(avcodec_parameters_to_context(codec_.get(), &stream));
  codec_->thread_count = 1;
  codec_->thread_type = FF_THREAD_SLICE;  // get_buffer2 is called by this thread
  codec_->err_recognition = AV_EF_CRCCHECK;
  // Else a picture that is cut off has gray below. Of TIFF it would refuse each tag that is not known.
  if (stream.codec_id != AV_CODEC_ID_TIFF) codec_->err_recognition |= AV_EF_EXPLODE;
  codec_->opaque = &refused_;
  codec_->get_buffer2 = get_small_buffer;
  check(avcodec_open2(codec_.get(), decoder, nullptr));
}

bool Reader::receive(AVFrame* frame) {
  const int error = avcodec_receive_frame(codec_.get(), frame);
  if (error == AVERROR(EAGAIN) || error == AVERROR_EOF) return false;
  check(error);
  if (frame->decode_error_flags != 0 || (frame->flags & AV_FRAME_FLAG_CORRUPT) != 0) {
    check(AVERROR_INVALIDDATA);
  }
  check_size(frame->width, frame->height);
  return true;
}

Frame Reader::decode() {
  Frame frame = allocated(Frame(av_frame_alloc()), "a frame");
  const Packet packet = allocated(Packet(av_packet_alloc()), "a packet");
  int error = 0;
  while ((error = av_read_frame(input_.get(), packet.get())) >= 0) {
    if (packet->stream_index == 0) check(avcodec_send_packet(codec_.get(), packet.get()));
    av_packet_unref(packet.get());
    if (receive(frame.get())) return frame;
  }
  if (error != AVERROR_EOF) check(error);
  check(avcodec_send_packet(codec_.get(), nullptr));
  if (!receive(frame.get())) check(AVERROR_INVALIDDATA);
  return frame;
}

void Reader::check(int error) const {
  if (error >= 0) return;
  if (error == AVERROR(ENOMEM)) fail(ExitCode::out_of_memory, "{}: out of host memory to decode it", name_);
  check_size(refused_.width, refused_.height);
  fail(ExitCode::bad_data, "{}: cannot be decoded: {}; it may be cut off or broken; {}", name_, reason(error),
       kWanted);
}

void Reader::check_size(int width, int height) const {
  if (!is_too_large(width, height)) return;
  fail(ExitCode::bad_data, "{}: has {}x{} = {} pixels; make it smaller: at most {} are read", name_, width,
       height, std::int64_t{width} * height, most_pixels);
}

/// The conversion of `frame` to gray, of which 0 is black and 255 is white.
Frame to_gray(const AVFrame& frame, const std::string& name) {
  constexpr int kFlags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT;
  const auto pixels = static_cast<AVPixelFormat>(frame.format);
  const Scaler scaler(sws_getContext(frame.width, frame.height, pixels, frame.width, frame.height,
                                     AV_PIX_FMT_GRAY8, kFlags, nullptr, nullptr, nullptr));
  if (!scaler) {
    fail(ExitCode::bad_data, "{}: pixels of the kind {} cannot be made gray; {}", name,
         av_get_pix_fmt_name(pixels), kWanted);
  }
  if (frame.color_range == AVCOL_RANGE_JPEG) {  // only some kinds of pixels say it by themselves
    const int* bt601 = sws_getCoefficients(SWS_CS_ITU601);
    constexpr int kOne = 1 << 16;
    sws_setColorspaceDetails(scaler.get(), bt601, 1, bt601, 1, 0, kOne, kOne);
  }
  Frame gray = make_frame(AV_PIX_FMT_GRAY8, frame.width, frame.height);
  if (sws_scale(scaler.get(), frame.data, frame.linesize, 0, frame.height, gray->data, gray->linesize) < 0) {
    fail(ExitCode::bad_data, "{}: cannot be made gray; {}", name, kWanted);
  }
  return gray;
}

}  // namespace

bool can_read_image() {
  return true;
}

at::Tensor read_gray_image(const std::filesystem::path& file) {
  av_log_set_level(AV_LOG_PANIC);  // what is wrong with a picture is said here
  const Frame gray = to_gray(*Reader(file).decode(), file.string());
  const at::Tensor rows = at::from_blob(gray->data[0], {gray->height, gray->width}, {gray->linesize[0], 1},
                                        at::TensorOptions().dtype(at::kByte));
  return rows.to(at::kFloat).div_(255).contiguous();
}

}  // namespace frameshard

#else

namespace frameshard {

bool can_read_image() {
  return false;
}

at::Tensor read_gray_image(const std::filesystem::path& file) {
  fail(ExitCode::config,
       "cannot read {}: this build has no support for pictures; install libavformat-dev libavcodec-dev "
       "libavutil-dev libswscale-dev and build again",
       file.string());
}

}  // namespace frameshard

#endif
