#include "core/io/video_writer.h"

#include <utility>

#include "core/error.h"

#ifdef FRAMESHARD_HAVE_LIBAV

#include <cerrno>
#include <exception>

#include <sys/stat.h>
#include <unistd.h>

#include "core/io/atomic_file.h"
#include "core/io/libav.h"
#include "core/io/video_writer/encoding.h"

extern "C" {
#include <libavutil/imgutils.h>
#include <libavutil/log.h>
}

namespace frameshard {

using namespace libav;

namespace {

#if LIBAVFORMAT_VERSION_MAJOR >= 61
using WriteBuffer = const std::uint8_t;
#else
using WriteBuffer = std::uint8_t;
#endif

/// Where the muxer's bytes go. libav is C, so an exception waits here until the call that met it is over.
struct Sink {
  explicit Sink(std::filesystem::path path) : file(std::move(path)) {}
  AtomicFile file;
  std::exception_ptr failure;
};

int write_to_sink(void* opaque, WriteBuffer* data, int size) {
  auto& sink = *static_cast<Sink*>(opaque);
  if (sink.failure) return AVERROR(EIO);
  try {
    sink.file.write(std::as_bytes(std::span(data, static_cast<std::size_t>(size))));
    return size;
  } catch (...) {
    sink.failure = std::current_exception();
    return AVERROR(EIO);
  }
}

std::int64_t seek_in_sink(void* opaque, std::int64_t offset, int whence) {
  const int fd = static_cast<Sink*>(opaque)->file.fd();
  if (whence & AVSEEK_SIZE) {
    struct stat status {};
    return fstat(fd, &status) == 0 ? status.st_size : AVERROR(errno);
  }
  const off_t at = lseek(fd, offset, whence & ~AVSEEK_FORCE);
  return at < 0 ? AVERROR(errno) : at;
}

VideoFormat checked(VideoFormat format, const std::filesystem::path& path) {
  if (format.width <= 0 || format.height <= 0 || format.width % 2 != 0 || format.height % 2 != 0) {
    fail(ExitCode::config, "cannot write {}: H.264 in yuv420p needs an even width and height, not {}x{}",
         path.string(), format.width, format.height);
  }
  if (format.fps <= 0) {
    fail(ExitCode::config, "cannot write {}: a video needs at least 1 frame a second, not {}", path.string(),
         format.fps);
  }
  return format;
}

}  // namespace

class VideoWriter::Impl {
 public:
  Impl(std::filesystem::path path, VideoFormat format);
  void write(std::span<const std::uint8_t> rgb24_frame);
  void finish();

 private:
  void open_container();
  void add_stream();
  void write_header();
  void encode(const AVFrame* frame);
  void drain_packets();
  void check(int error, const char* operation) const;

  // Destroyed from the last to the first: the container before its bytes' way out, the file at the end.
  std::string path_;
  VideoFormat format_;
  Codec codec_;
  Sink sink_;
  Avio avio_;
  Format container_;
  AVStream* stream_ = nullptr;
  Scaler scaler_;
  Frame rgb_;
  Frame yuv_;
  Packet packet_;
  std::int64_t frames_ = 0;
};

VideoWriter::Impl::Impl(std::filesystem::path path, VideoFormat format)
    : path_(path.string()),
      format_(checked(std::move(format), path)),
      codec_(open_any_encoder(path_, format_)),
      sink_(std::move(path)),
      scaler_(make_scaler(format_.width, format_.height)),
      rgb_(make_frame(AV_PIX_FMT_RGB24, format_.width, format_.height)),
      yuv_(make_frame(AV_PIX_FMT_YUV420P, format_.width, format_.height)),
      packet_(allocated(Packet(av_packet_alloc()), "a packet")) {
  yuv_->color_range = codec_->color_range;
  yuv_->color_primaries = codec_->color_primaries;
  yuv_->color_trc = codec_->color_trc;
  yuv_->colorspace = codec_->colorspace;
  open_container();
  add_stream();
  write_header();
}

void VideoWriter::Impl::open_container() {
  constexpr int kBufferSize = 1 << 16;
  auto* buffer = static_cast<std::uint8_t*>(allocated(av_malloc(kBufferSize), "the output buffer"));
  avio_.reset(avio_alloc_context(buffer, kBufferSize, 1, &sink_, nullptr, write_to_sink, seek_in_sink));
  if (!avio_) av_free(buffer);
  allocated(avio_.get(), "the output");
  // The name is needed although all writing goes through sink_: to move the index to the front, the muxer
  // opens the file a second time. "file:" keeps a colon in the path from naming a protocol.
  const std::string url = "file:" + sink_.file.temporary().string();
  AVFormatContext* container = nullptr;
  check(avformat_alloc_output_context2(&container, nullptr, "mp4", url.c_str()), "open the MP4 muxer for");
  container_.reset(container);
  container_->pb = avio_.get();
  container_->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT;
}

void VideoWriter::Impl::add_stream() {
  stream_ = allocated(avformat_new_stream(container_.get(), nullptr), "the stream");
  check(avcodec_parameters_from_context(stream_->codecpar, codec_.get()), "describe the stream of");
  stream_->time_base = codec_->time_base;
  stream_->avg_frame_rate = codec_->framerate;
  stream_->sample_aspect_ratio = codec_->sample_aspect_ratio;
}

void VideoWriter::Impl::write_header() {
  for (const auto& [key, value] : format_.metadata) {
    check(av_dict_set(&container_->metadata, key.c_str(), value.c_str(), AV_DICT_MATCH_CASE),
          "add metadata to");
  }
  Options options;
  // Without use_metadata_tags MP4 keeps only the handful of keys that it has atoms for.
  options.set("movflags", "+faststart+use_metadata_tags");
  check(avformat_write_header(container_.get(), &options.entries), "write the header of");
}

void VideoWriter::Impl::write(std::span<const std::uint8_t> rgb24_frame) {
  const std::size_t row = std::size_t{3} * format_.width;
  require(rgb24_frame.size() == row * format_.height, "{}: a frame of {}x{} cannot have {} bytes", path_,
          format_.width, format_.height, rgb24_frame.size());
  // Copied first: swscale reads past the end of rows that have no padding.
  av_image_copy_plane(rgb_->data[0], rgb_->linesize[0], rgb24_frame.data(), static_cast<int>(row),
                      static_cast<int>(row), format_.height);
  check(av_frame_make_writable(yuv_.get()), "prepare a frame of");
  check(sws_scale(scaler_.get(), rgb_->data, rgb_->linesize, 0, format_.height, yuv_->data, yuv_->linesize),
        "convert a frame of");
  yuv_->pts = frames_++;
  encode(yuv_.get());
}

void VideoWriter::Impl::encode(const AVFrame* frame) {
  check(avcodec_send_frame(codec_.get(), frame), "encode");
  drain_packets();
}

void VideoWriter::Impl::drain_packets() {
  for (;;) {
    const int error = avcodec_receive_packet(codec_.get(), packet_.get());
    if (error == AVERROR(EAGAIN) || error == AVERROR_EOF) return;
    check(error, "encode");
    // Not every encoder says it, and the muxer would then guess how long the last frame lasts.
    packet_->duration = 1;
    packet_->stream_index = stream_->index;
    av_packet_rescale_ts(packet_.get(), codec_->time_base, stream_->time_base);
    check(av_interleaved_write_frame(container_.get(), packet_.get()), "write");
  }
}

void VideoWriter::Impl::finish() {
  require(frames_ > 0, "{}: a video without a frame was finished", path_);
  encode(nullptr);
  check(av_write_trailer(container_.get()), "write the index of");
  avio_flush(avio_.get());
  check(avio_->error, "write");
  sink_.file.commit();
}

/// Turns a failed libav call into an Error. A failed write can also hide behind a successful call, because
/// libav buffers.
void VideoWriter::Impl::check(int error, const char* operation) const {
  if (sink_.failure) std::rethrow_exception(sink_.failure);
  if (error >= 0) return;
  if (error == AVERROR(ENOMEM))
    fail(ExitCode::out_of_memory, "out of host memory: cannot {} {}", operation, path_);
  const bool of_system = error > -4096;  // libav's own codes are four letters, far below the negated errnos
  fail(of_system && error != AVERROR(EINVAL) ? ExitCode::io : ExitCode::internal, "cannot {} {}: {}",
       operation, path_, reason(error));
}

VideoWriter::VideoWriter(std::filesystem::path final_mp4, VideoFormat format) {
  av_log_set_level(AV_LOG_ERROR);
  impl_ = std::make_unique<Impl>(std::move(final_mp4), std::move(format));
}

VideoWriter::~VideoWriter() = default;

void VideoWriter::write(std::span<const std::uint8_t> rgb24_frame) {
  require(impl_ != nullptr, "a video was written to after its end");
  try {
    impl_->write(rgb24_frame);
  } catch (...) {
    impl_.reset();  // the unfinished file goes now, not when the caller has dealt with the error
    throw;
  }
}

void VideoWriter::finish() {
  require(impl_ != nullptr, "a video was finished after its end");
  const std::unique_ptr<Impl> impl = std::move(impl_);
  impl->finish();
}

}  // namespace frameshard

#else

namespace frameshard {

class VideoWriter::Impl {};

VideoWriter::VideoWriter(std::filesystem::path final_mp4, VideoFormat) {
  fail(ExitCode::config,
       "cannot write {}: this build has no video support; install libavformat-dev libavcodec-dev "
       "libavutil-dev "
       "libswscale-dev and build again",
       final_mp4.string());
}

VideoWriter::~VideoWriter() = default;

void VideoWriter::write(std::span<const std::uint8_t>) {}

void VideoWriter::finish() {}

}  // namespace frameshard

#endif
