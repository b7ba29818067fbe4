#include "core/io/image_reader.h"

#include "core/error.h"

#ifdef FRAMESHARD_HAVE_LIBAV

#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "core/io/media_reader.h"
#include "core/io/text_file.h"
#include "core/io/video_writer/encoding.h"

extern "C" {
#include <libavutil/pixdesc.h>
}

namespace frameshard {

using namespace libav;

namespace {

constexpr std::size_t kMostBytes = std::size_t{512} << 20;
constexpr const char* kWanted = "a PNG or JPEG picture of at most 64 million pixels is wanted";

/// The first frame. The bytes are read whole, since the file may be a pipe.
Frame decode(const std::filesystem::path& file) {
  std::string bytes = read_text_file(file, kMostBytes, "a picture");
  if (bytes.size() > kMostBytes) {
    fail(ExitCode::bad_data, "{}: has more than {} MiB; {}", file.string(), kMostBytes >> 20, kWanted);
  }
  MediaReader reader(std::make_unique<std::istringstream>(std::move(bytes)), file.string(),
                     {.videos = false, .noun = "picture", .advice = kWanted, .most_pixels = most_pixels});
  Frame frame = allocated(Frame(av_frame_alloc()), "a frame");
  if (!reader.next(*frame)) reader.fail_damaged();
  return frame;
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
  const Frame gray = to_gray(*decode(file), file.string());
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
