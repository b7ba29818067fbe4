#ifdef FRAMESHARD_HAVE_LIBAV

#include "core/io/media_reader.h"

#include <cerrno>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"

extern "C" {
#include <libavutil/log.h>
}

namespace frameshard::libav {
namespace {

int read_bytes(void* opaque, std::uint8_t* to, int size) {
  auto& bytes = *static_cast<std::istream*>(opaque);
  bytes.read(reinterpret_cast<char*>(to), size);
  const auto count = bytes.gcount();
  if (count > 0) return static_cast<int>(count);
  return bytes.bad() ? AVERROR(EIO) : AVERROR_EOF;
}

std::int64_t seek_bytes(void* opaque, std::int64_t offset, int whence) {
  auto& bytes = *static_cast<std::istream*>(opaque);
  bytes.clear();  // the end was reached before
  if (whence & AVSEEK_SIZE) {
    const auto place = bytes.tellg();
    const std::int64_t size = bytes.seekg(0, std::ios::end).tellg();
    bytes.seekg(place);
    return size;
  }
  whence &= ~AVSEEK_FORCE;
  const auto from = whence == SEEK_CUR ? std::ios::cur : whence == SEEK_END ? std::ios::end : std::ios::beg;
  if (!bytes.seekg(offset, from)) return AVERROR(EINVAL);
  return bytes.tellg();
}

/// Nothing for what is neither, such as sound and lists of files.
std::optional<MediaKind> kind_of(std::string_view format) {
  // libav calls its readers of single pictures "png_pipe", "jpeg_pipe" and so on.
  if (format.ends_with("_pipe")) return MediaKind::picture;
  if (format == "gif" || format == "apng") return MediaKind::animation;
  if (format.starts_with("mov,mp4") || format.starts_with("matroska") || format == "avi") {
    return MediaKind::video;
  }
  return std::nullopt;
}

}  // namespace

MediaReader::MediaReader(std::unique_ptr<std::istream> bytes, std::string name, const MediaWanted& wanted)
    : bytes_(std::move(bytes)), name_(std::move(name)), wanted_(wanted) {
  av_log_set_level(AV_LOG_PANIC);  // what is wrong with a file is said here
  refused_.most = wanted.most_pixels;
  if (bytes_->peek() == std::istream::traits_type::eof()) {
    fail(ExitCode::bad_data, "{}: is empty; {}", name_, wanted_.advice);
  }
  packet_ = allocated(Packet(av_packet_alloc()), "a packet");
  open_input();
  open_decoder();
}

void MediaReader::open_input() {
  constexpr int kBufferSize = 1 << 16;
  auto* buffer = static_cast<std::uint8_t*>(allocated(av_malloc(kBufferSize), "the input buffer"));
  avio_.reset(avio_alloc_context(buffer, kBufferSize, 0, bytes_.get(), read_bytes, nullptr, seek_bytes));
  if (!avio_) av_free(buffer);
  allocated(avio_.get(), "the input");
  // Looked at before it is opened: lists of files, which libav would follow, are among the formats.
  decltype(AVFormatContext::iformat) format = nullptr;
  if (av_probe_input_buffer2(avio_.get(), &format, nullptr, nullptr, 0, 0) < 0) {
    fail(ExitCode::bad_data, "{}: is no {} that libav knows; {}", name_, wanted_.noun, wanted_.advice);
  }
  const auto kind = kind_of(format->name);
  if (!kind || (kind == MediaKind::video && !wanted_.videos)) {
    fail(ExitCode::bad_data, "{}: is no {} but of the kind \"{}\"; {}", name_, wanted_.noun,
         format->long_name ? format->long_name : format->name, wanted_.advice);
  }
  kind_ = *kind;
  AVFormatContext* input = allocated(avformat_alloc_context(), "the input");
  input->pb = avio_.get();
  const int error = avformat_open_input(&input, nullptr, format, nullptr);  // frees it where it fails
  input_.reset(input);
  check_opened(error);
}

void MediaReader::open_decoder() {
  stream_ = av_find_best_stream(input_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  if (stream_ < 0) fail(ExitCode::bad_data, "{}: holds no {}; {}", name_, wanted_.noun, wanted_.advice);
  const AVCodecParameters& stream = *input_->streams[stream_]->codecpar;
  const AVCodec* decoder = avcodec_find_decoder(stream.codec_id);
  if (decoder == nullptr) {
    fail(ExitCode::bad_data, "{}: the installed libavcodec cannot decode {}; {}", name_,
         avcodec_get_name(stream.codec_id), wanted_.advice);
  }
  codec_ = allocated(Codec(avcodec_alloc_context3(decoder)), "the decoder");
  check_opened(avcodec_parameters_to_context(codec_.get(), &stream));
  codec_->thread_count = 1;
  codec_->thread_type = FF_THREAD_SLICE;  // get_buffer2 is called by this thread
  codec_->err_recognition = AV_EF_CRCCHECK;
  // Else a picture that is cut off has gray below. Of TIFF it would refuse each tag that is not known; a
  // video's damaged frames are marked.
  if (kind_ != MediaKind::video && stream.codec_id != AV_CODEC_ID_TIFF) {
    codec_->err_recognition |= AV_EF_EXPLODE;
  }
  codec_->opaque = &refused_;
  codec_->get_buffer2 = small_buffer;
  check_opened(avcodec_open2(codec_.get(), decoder, nullptr));
}

/// Refuses a frame before there is memory for it.
int MediaReader::small_buffer(AVCodecContext* codec, AVFrame* frame, int flags) {
  auto& refused = *static_cast<TooLarge*>(codec->opaque);
  if (std::int64_t{frame->width} * frame->height <= refused.most) {
    return avcodec_default_get_buffer2(codec, frame, flags);
  }
  refused.width = frame->width;
  refused.height = frame->height;
  return AVERROR(EINVAL);
}

void MediaReader::check_opened(int error) {
  damage(error);
  if (damaged()) fail_damaged();
}

bool MediaReader::next(AVFrame& frame) {
  while (!ended_) {
    const int error = avcodec_receive_frame(codec_.get(), &frame);
    if (error == AVERROR(EAGAIN)) {
      send_packet();
      continue;
    }
    ended_ = error < 0;
    if (error != AVERROR_EOF) damage(error);
    if (ended_) break;
    check_size(frame.width, frame.height);
    if (frame.decode_error_flags == 0 && (frame.flags & AV_FRAME_FLAG_CORRUPT) == 0) return true;
    damage(AVERROR_INVALIDDATA);
    ended_ = true;
  }
  return false;
}

/// Gives the decoder the next packet; at the end, or where one is damaged, what asks it for its last frames.
void MediaReader::send_packet() {
  int error = AVERROR_EOF;
  if (!damaged() && read_packet()) {
    error = avcodec_send_packet(codec_.get(), packet_.get());
    av_packet_unref(packet_.get());
    if (error >= 0) return;
    damage(error);
  }
  avcodec_send_packet(codec_.get(), nullptr);
}

/// The stream's next packet; false at the end or where it is cut off.
bool MediaReader::read_packet() {
  int error = 0;
  while ((error = av_read_frame(input_.get(), packet_.get())) >= 0) {
    const bool ours = packet_->stream_index == stream_;
    const bool cut = kind_ != MediaKind::picture && (packet_->flags & AV_PKT_FLAG_CORRUPT) != 0;
    if (ours && !cut) {
      packets_ += (packet_->flags & AV_PKT_FLAG_DISCARD) == 0;
      return true;
    }
    av_packet_unref(packet_.get());
    if (cut) {
      damage(AVERROR_INVALIDDATA);
      return false;
    }
  }
  if (error != AVERROR_EOF) damage(error);
  return false;
}

int64_t MediaReader::count_frames() {
  while (!damaged() && read_packet()) av_packet_unref(packet_.get());
  ended_ = true;
  return packets_;
}

/// Keeps the first damage. No memory is one too: broken files ask for more than there is.
void MediaReader::damage(int error) {
  if (error < 0 && damage_ == 0) damage_ = error;
}

void MediaReader::fail_damaged(const std::string& when) const {
  check_size(refused_.width, refused_.height);
  fail(ExitCode::bad_data, "{}: cannot be decoded{}{}: {}; it may be cut off or broken; {}", name_,
       when.empty() ? "" : " ", when, reason(damaged() ? damage_ : AVERROR_INVALIDDATA), wanted_.advice);
}

void MediaReader::check_size(int width, int height) const {
  const std::int64_t pixels = std::int64_t{width} * height;
  if (pixels <= wanted_.most_pixels) return;
  fail(ExitCode::bad_data, "{}: has {}x{} = {} pixels; make it smaller: at most {} are read", name_, width,
       height, pixels, wanted_.most_pixels);
}

}  // namespace frameshard::libav

#endif
