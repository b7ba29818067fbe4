#include "core/io/clip_reader.h"

#include "core/error.h"

#ifdef FRAMESHARD_HAVE_LIBAV

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

#include "core/io/file_kind.h"
#include "core/io/image_reader.h"
#include "core/io/media_reader.h"
#include "core/io/video_writer/encoding.h"

extern "C" {
#include <libavutil/pixdesc.h>
}

namespace frameshard {

using namespace libav;

namespace {

constexpr const char* kAdvice = "a video or picture is wanted, as MP4, MKV, WebM, AVI, GIF, PNG or JPEG";
constexpr MediaWanted kWanted{
    .videos = true, .noun = "video or picture", .advice = kAdvice, .most_pixels = most_pixels};

/// Nothing else than a regular file is opened: a FIFO would wait for somebody to write.
std::unique_ptr<std::istream> opened(const std::filesystem::path& file) {
  std::error_code ignored;  // what cannot even be looked at fails to open below
  const auto status = std::filesystem::status(file, ignored);
  if (status.type() == std::filesystem::file_type::not_found) {
    fail(ExitCode::missing_file, "{}: no such file", file.string());
  }
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    fail(ExitCode::missing_file, "{}: is {}; {}", file.string(), kind_of_file(status), kAdvice);
  }
  errno = 0;
  auto stream = std::make_unique<std::ifstream>(file, std::ios::binary);
  if (!*stream) fail(ExitCode::io, "{}: cannot be read: {}", file.string(), std::strerror(errno));
  return stream;
}

/// Scales frames, which may change their size on the way, and converts them to RGB.
class ToRgb {
 public:
  ToRgb(std::string name, const ClipWanted& wanted) : name_(std::move(name)), wanted_(wanted) {}
  /// Into [3, height, width] bytes.
  void write(const AVFrame& frame, at::Tensor to);

 private:
  struct Source {
    int width = 0, height = 0, pixels = -1, matrix = 0, range = 0;
    bool operator==(const Source&) const = default;
  };
  void prepare(const Source& source);

  std::string name_;
  ClipWanted wanted_;
  Source source_;
  Scaler scaler_;
  Frame rgb_;
};

void ToRgb::prepare(const Source& source) {
  // The smallest size of the frame's form that covers what is wanted.
  const int64_t w = source.width, h = source.height;
  const bool wide = w * wanted_.height >= h * wanted_.width;
  const int64_t width = wide ? (2 * w * wanted_.height + h) / (2 * h) : wanted_.width;
  const int64_t height = wide ? wanted_.height : (2 * h * wanted_.width + w) / (2 * w);
  if (width > most_pixels || height > most_pixels || width * height > most_pixels) {
    fail(ExitCode::bad_data, "{}: {}x{} cannot be scaled to cover {}x{}; cut it to a similar form", name_, w,
         h, wanted_.width, wanted_.height);
  }
  constexpr int kFlags =
      SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP;
  const auto pixels = static_cast<AVPixelFormat>(source.pixels);
  scaler_.reset(sws_getContext(source.width, source.height, pixels, int(width), int(height), AV_PIX_FMT_RGB24,
                               kFlags, nullptr, nullptr, nullptr));
  if (!scaler_) {
    const char* kind = av_get_pix_fmt_name(pixels);
    fail(ExitCode::bad_data, "{}: {}x{} pixels of the kind {} cannot be made {}x{} RGB; {}", name_, w, h,
         kind ? kind : "unknown", width, height, kAdvice);
  }
  const int* matrix = sws_getCoefficients(source.matrix);  // numbered as AVColorSpace is; else BT.601
  constexpr int kOne = 1 << 16;
  sws_setColorspaceDetails(scaler_.get(), matrix, source.range == AVCOL_RANGE_JPEG, matrix, 1, 0, kOne, kOne);
  rgb_ = make_frame(AV_PIX_FMT_RGB24, int(width), int(height));  // rows padded, which swscale writes over
  source_ = source;
}

void ToRgb::write(const AVFrame& frame, at::Tensor to) {
  const Source source{frame.width, frame.height, frame.format, frame.colorspace, frame.color_range};
  if (!scaler_ || source != source_) prepare(source);
  if (sws_scale(scaler_.get(), frame.data, frame.linesize, 0, frame.height, rgb_->data, rgb_->linesize) < 0) {
    fail(ExitCode::bad_data, "{}: cannot be made RGB; {}", name_, kAdvice);
  }
  const at::Tensor rows =
      at::from_blob(rgb_->data[0], {rgb_->height, rgb_->width, 3}, {rgb_->linesize[0], 3, 1}, at::kByte);
  const int64_t top = (rgb_->height - wanted_.height) / 2, left = (rgb_->width - wanted_.width) / 2;
  to.copy_(rows.narrow(0, top, wanted_.height).narrow(1, left, wanted_.width).permute({2, 0, 1}));
}

}  // namespace

bool can_read_clip() {
  return true;
}

ClipInfo clip_info(const std::filesystem::path& file) {
  MediaReader reader(opened(file), file.string(), kWanted);
  const Frame frame = allocated(Frame(av_frame_alloc()), "a frame");
  if (!reader.next(*frame)) reader.fail_damaged();
  ClipInfo info{.frames = 1, .width = frame->width, .height = frame->height, .is_image = true};
  if (reader.kind() == MediaKind::picture) return info;
  info.frames = reader.count_frames();
  info.is_image = reader.kind() == MediaKind::animation && info.frames == 1;
  return info;
}

at::Tensor read_clip(const std::filesystem::path& file, const ClipWanted& wanted) {
  require(wanted.frames > 0 && wanted.height > 0 && wanted.width > 0, "a clip of {} frames of {}x{}",
          wanted.frames, wanted.width, wanted.height);
  MediaReader reader(opened(file), file.string(), kWanted);
  const Frame frame = allocated(Frame(av_frame_alloc()), "a frame");
  ToRgb to_rgb(file.string(), wanted);
  const at::Tensor clip = at::empty({wanted.frames, 3, wanted.height, wanted.width}, at::kByte);
  for (int64_t i = 0; i < wanted.frames; ++i) {
    if (!reader.next(*frame)) {
      if (reader.damaged() || i == 0) {
        reader.fail_damaged(fmt::format("after {} of {} frames", i, wanted.frames));
      }
      fail(ExitCode::bad_data, "{}: ends after {} frames, {} are wanted", file.string(), i, wanted.frames);
    }
    to_rgb.write(*frame, clip[i]);
  }
  return clip;
}

}  // namespace frameshard

#else

namespace frameshard {
namespace {

[[noreturn]] void fail_without_libav(const std::filesystem::path& file) {
  fail(ExitCode::config,
       "cannot read {}: this build has no support for videos; install libavformat-dev libavcodec-dev "
       "libavutil-dev libswscale-dev and build again",
       file.string());
}

}  // namespace

bool can_read_clip() {
  return false;
}

ClipInfo clip_info(const std::filesystem::path& file) {
  fail_without_libav(file);
}

at::Tensor read_clip(const std::filesystem::path& file, const ClipWanted&) {
  fail_without_libav(file);
}

}  // namespace frameshard

#endif
