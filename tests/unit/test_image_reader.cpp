// Pictures as brightness: what is read is what was written, whatever the kind of pixels, and what is no
// picture is refused.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/io/image_reader.h"
#include "core/io/png_writer.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"

#ifdef FRAMESHARD_HAVE_LIBAV

#include "core/io/libav.h"
#include "core/io/video_writer.h"
#include "core/io/video_writer/encoding.h"

extern "C" {
#include <libavutil/avutil.h>
#include <libavutil/crc.h>
}

namespace frameshard {
namespace {

using namespace test;

// A pixel's components of 8 bits, as they lie in memory.
using Fill = std::function<std::vector<std::uint8_t>(int y, int x)>;

struct Kind {
  AVCodecID codec;
  AVPixelFormat pixels;
};

// A picture of one plane, or of planes that are all alike, as libavcodec writes it.
std::string encoded(Kind kind, int height, int width, const Fill& fill) {
  const libav::Codec codec(avcodec_alloc_context3(avcodec_find_encoder(kind.codec)));
  codec->width = width;
  codec->height = height;
  codec->pix_fmt = kind.pixels;
  codec->time_base = {1, 1};
  codec->flags |= AV_CODEC_FLAG_QSCALE;
  codec->global_quality = FF_QP2LAMBDA;  // as little loss as JPEG can have
  require(avcodec_open2(codec.get(), codec->codec, nullptr) == 0, "no encoder");
  const libav::Frame frame = libav::make_frame(kind.pixels, width, height);
  frame->quality = codec->global_quality;
  const bool planes = kind.pixels == AV_PIX_FMT_YUVJ444P;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const auto values = fill(y, x);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const std::size_t plane = planes ? i : 0, at = planes ? std::size_t(x) : x * values.size() + i;
        frame->data[plane][y * std::ptrdiff_t{frame->linesize[plane]} + std::ptrdiff_t(at)] = values[i];
      }
    }
  }
  const libav::Packet packet(av_packet_alloc());
  require(avcodec_send_frame(codec.get(), frame.get()) == 0 &&
              avcodec_send_frame(codec.get(), nullptr) == 0 &&
              avcodec_receive_packet(codec.get(), packet.get()) == 0,
          "not encoded");
  return {reinterpret_cast<const char*>(packet->data), static_cast<std::size_t>(packet->size)};
}

std::string gray_png(int height, int width) {
  return encoded({AV_CODEC_ID_PNG, AV_PIX_FMT_GRAY8}, height, width,
                 [](int y, int x) { return std::vector{std::uint8_t(y * 16 + x)}; });
}

at::Tensor read(const std::string& bytes) {
  const Scratch scratch;
  put(scratch / "a picture: %d.txt", bytes);  // the name says nothing, and is no pattern
  return read_gray_image(scratch / "a picture: %d.txt");
}

Failure refused(const std::string& bytes) {
  return failure_of([&] { read(bytes); });
}

// 0, 1, ..., 255 in a square.
at::Tensor levels() {
  return at::arange(256).view({16, 16}).to(at::kFloat) / 255;
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a - b).abs().max().item<double>();
}

}  // namespace

TEST_CASE("every level of gray is read as it was written", "[image]") {
  const at::Tensor picture = read(gray_png(16, 16));
  CHECK(picture.scalar_type() == at::kFloat);
  CHECK(picture.is_contiguous());
  CHECK(at::equal(picture, levels()));
  const at::Tensor narrow = read(gray_png(5, 3));  // rows that libav pads
  CHECK(at::equal(narrow, levels().slice(0, 0, 5).slice(1, 0, 3)));
}

TEST_CASE("gray pictures of other kinds of pixels", "[image]") {
  using Bytes = std::vector<std::uint8_t>;
  const auto level = [](int y, int x) { return std::uint8_t(y * 16 + x); };
  struct Case {
    const char* name;
    Kind kind;
    Fill fill;
  };
  const Case cases[] = {
      {"RGB", {AV_CODEC_ID_PNG, AV_PIX_FMT_RGB24}, [&](int y, int x) { return Bytes(3, level(y, x)); }},
      {"BMP", {AV_CODEC_ID_BMP, AV_PIX_FMT_BGR24}, [&](int y, int x) { return Bytes(3, level(y, x)); }},
      {"TIFF", {AV_CODEC_ID_TIFF, AV_PIX_FMT_GRAY8}, [&](int y, int x) { return Bytes(1, level(y, x)); }},
      {"PGM", {AV_CODEC_ID_PGM, AV_PIX_FMT_GRAY8}, [&](int y, int x) { return Bytes(1, level(y, x)); }},
      {"16 bits",
       {AV_CODEC_ID_PNG, AV_PIX_FMT_GRAY16BE},
       [&](int y, int x) { return Bytes(2, level(y, x)); }},
      {"48 bits", {AV_CODEC_ID_PNG, AV_PIX_FMT_RGB48BE}, [&](int y, int x) { return Bytes(6, level(y, x)); }},
      {"transparent",  // the alpha, here its opposite, is ignored
       {AV_CODEC_ID_PNG, AV_PIX_FMT_YA8},
       [&](int y, int x) {
         return Bytes{level(y, x), std::uint8_t(255 - level(y, x))};
       }},
      {"transparent RGB", {AV_CODEC_ID_PNG, AV_PIX_FMT_RGBA}, [&](int y, int x) {
         return Bytes{level(y, x), level(y, x), level(y, x), 0};
       }}};
  for (const Case& one : cases) {
    INFO(one.name);
    const at::Tensor picture = read(encoded(one.kind, 16, 16, one.fill));
    CHECK(largest_difference(picture, levels()) < 1.01 / 255);
    CHECK(picture[0][0].item<float>() == 0);
    CHECK(picture[15][15].item<float>() == 1);
  }
}

TEST_CASE("black and white of a JPEG", "[image]") {
  const Kind jpeg{AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ444P};
  const at::Tensor picture = read(encoded(jpeg, 24, 32, [](int, int x) {
    return std::vector<std::uint8_t>{std::uint8_t(x < 16 ? 0 : 255), 128,
                                     128};  // full range, in whole blocks
  }));
  at::Tensor expected = at::zeros({24, 32});
  expected.slice(1, 16).fill_(1);
  CHECK(largest_difference(picture, expected) < 1.01 / 255);
}

TEST_CASE("a picture of one bit", "[image]") {
  const at::Tensor picture = read(encoded({AV_CODEC_ID_PNG, AV_PIX_FMT_MONOBLACK}, 3, 8, [](int y, int x) {
    return x == 0 ? std::vector{std::uint8_t(0xF0 >> y)} : std::vector<std::uint8_t>{};
  }));
  CHECK(at::equal(picture[0], at::tensor({1.F, 1.F, 1.F, 1.F, 0.F, 0.F, 0.F, 0.F})));
  CHECK(at::equal(picture[2], at::tensor({0.F, 0.F, 1.F, 1.F, 1.F, 1.F, 0.F, 0.F})));
}

TEST_CASE("a colour counts with BT.601's weights", "[image]") {
  if (!can_write_png()) {
    WARN("not run: built without libpng");
    return;
  }
  const Scratch scratch;
  const std::vector<std::uint8_t> rgb{255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 200, 100, 50};
  write_png(scratch / "colours.png", 3, 2, rgb);
  const at::Tensor expected =
      at::tensor({0.299, 0.587, 0.114, 1.0, 0.0, (0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255})
          .view({2, 3})
          .to(at::kFloat);
  CHECK(largest_difference(read_gray_image(scratch / "colours.png"), expected) < 1.01 / 255);
}

TEST_CASE("a picture that is cut off or broken is bad data", "[image]") {
  const std::string png = gray_png(16, 16);
  const std::string jpeg = encoded({AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ444P}, 64, 64, [](int y, int x) {
    return std::vector<std::uint8_t>{std::uint8_t(y * x), std::uint8_t(y * 7), std::uint8_t(x * 5)};
  });
  for (const std::string& whole : {png, jpeg}) {
    read(whole);
    for (const std::size_t size :
         {std::size_t{9}, whole.size() / 3, whole.size() / 2, whole.size() * 3 / 4}) {
      INFO(size << " of " << whole.size() << " bytes");
      const Failure failure = refused(whole.substr(0, size));
      CHECK(failure.code == ExitCode::bad_data);
      CHECK_THAT(failure.message, Contains("a picture: %d.txt: ") && Contains("PNG or JPEG"));
    }
  }
  std::string changed = png;
  changed[changed.size() / 2] ^= 0x10;  // found by PNG's checksum
  const Failure failure = refused(changed);
  CHECK(failure.code == ExitCode::bad_data);
  CHECK_THAT(failure.message, Contains("cannot be decoded: ") && Contains("cut off or broken"));
}

TEST_CASE("what is no picture is refused, and no other file is opened", "[image]") {
  const Failure text = refused("a red fox, left of a tree\n");
  CHECK(text.code == ExitCode::bad_data);
  CHECK_THAT(text.message, Contains("is no picture"));
  const Failure empty = refused("");
  CHECK(empty.code == ExitCode::bad_data);
  CHECK_THAT(empty.message, Contains("is empty"));

  const Scratch scratch;
  put(scratch / "inside.png", gray_png(4, 4));
  const Failure list = refused("ffconcat version 1.0\nfile " + (scratch / "inside.png").string() + "\n");
  CHECK(list.code == ExitCode::bad_data);
  CHECK_THAT(list.message, Contains("is no picture"));

  VideoWriter video(scratch / "a.mp4", {.width = 32, .height = 32, .fps = 8, .metadata = {}});
  video.write(std::vector<std::uint8_t>(32 * 32 * 3));
  video.finish();
  const Failure film = failure_of([&] { read_gray_image(scratch / "a.mp4"); });
  CHECK(film.code == ExitCode::bad_data);
  CHECK_THAT(film.message, Contains("a.mp4: is no picture but of the kind \"QuickTime / MOV\""));
}

TEST_CASE("a picture that is not there", "[image]") {
  const Scratch scratch;
  const Failure missing = failure_of([&] { read_gray_image(scratch / "mask.png"); });
  CHECK(missing.code == ExitCode::missing_file);
  CHECK_THAT(missing.message, Contains((scratch / "mask.png").string() + ": no such file"));
  const Failure folder = failure_of([&] { read_gray_image(scratch.path()); });
  CHECK(folder.code == ExitCode::missing_file);
  CHECK_THAT(folder.message, Contains("is a directory, a picture is wanted"));
}

namespace {

// A small PNG whose header says another size.
std::string png_of_size(std::uint32_t width, std::uint32_t height) {
  std::string png = gray_png(4, 4);
  const auto put_number = [&](std::size_t at, std::uint32_t number) {
    for (int i = 0; i < 4; ++i) png[at + i] = char(number >> (24 - 8 * i));
  };
  put_number(16, width);
  put_number(20, height);
  const auto* chunk = reinterpret_cast<const std::uint8_t*>(png.data()) + 12;  // IHDR and its 13 bytes
  put_number(29, ~av_crc(av_crc_get_table(AV_CRC_32_IEEE_LE), ~0U, chunk, 17));
  return png;
}

}  // namespace

TEST_CASE("a picture that is too large is refused before there is memory for it", "[image]") {
  CHECK(read(png_of_size(4, 4)).sizes() == at::IntArrayRef{4, 4});  // the checksum is the right one
  const Failure failure = refused(png_of_size(10'000, 6'401));
  CHECK(failure.code == ExitCode::bad_data);
  CHECK_THAT(failure.message,
             Contains("has 10000x6401 = 64010000 pixels; make it smaller: at most 64000000"));
  const Failure beyond = refused(png_of_size(100'000, 100'000));  // what libav itself refuses
  CHECK(beyond.code == ExitCode::bad_data);
  CHECK_THAT(beyond.message, Contains("at most 64 million pixels"));
}

}  // namespace frameshard

#else

TEST_CASE("without libav a picture is a configuration error that names the packages", "[image]") {
  using namespace frameshard;
  CHECK_FALSE(can_read_image());
  const test::Failure failure = test::failure_of([] { read_gray_image("mask.png"); });
  CHECK(failure.code == ExitCode::config);
  CHECK_THAT(failure.message, test::Contains("mask.png") && test::Contains("libavformat-dev"));
}

#endif
