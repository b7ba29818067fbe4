// Clips and pictures as RGB frames: every kind of file, cut-off, broken and hostile ones.
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <sys/stat.h>

#include "core/io/clip_reader.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"
#include "tests/support/small_clips.h"

#ifdef FRAMESHARD_HAVE_LIBAV

#include "core/io/libav.h"
#include "core/io/video_writer/encoding.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;
using namespace test;

// A file of the kind that its ending says, each frame of one level of gray.
void write_media(const fs::path& file, AVCodecID id, AVPixelFormat pixels, int frames) {
  AVFormatContext* context = nullptr;
  require(avformat_alloc_output_context2(&context, nullptr, nullptr, file.c_str()) >= 0, "no such format");
  const libav::Format output(context);
  const libav::Codec codec(avcodec_alloc_context3(avcodec_find_encoder(id)));
  codec->width = 32;
  codec->height = 16;
  codec->pix_fmt = pixels;
  codec->time_base = {1, 10};
  if (context->oformat->flags & AVFMT_GLOBALHEADER) codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  require(avcodec_open2(codec.get(), codec->codec, nullptr) >= 0, "no encoder");
  AVStream* stream = avformat_new_stream(context, nullptr);
  stream->time_base = codec->time_base;
  avcodec_parameters_from_context(stream->codecpar, codec.get());
  require(avio_open(&context->pb, file.c_str(), AVIO_FLAG_WRITE) >= 0, "not created");
  require(avformat_write_header(context, nullptr) >= 0, "no header");
  const libav::Packet packet(av_packet_alloc());
  for (int i = 0; i <= frames; ++i) {
    const libav::Frame frame = libav::make_frame(pixels, 32, 16);
    for (int plane = 0; plane < 4 && frame->data[plane]; ++plane) {
      const bool half = pixels == AV_PIX_FMT_YUV420P || pixels == AV_PIX_FMT_YUVJ420P;
      const int rows = plane > 0 && half ? 8 : 16;
      const int value = plane > 0 ? 128 : pixels == AV_PIX_FMT_RGB8 ? (i % 2 ? 0xFF : 0) : level_of(i);
      for (int y = 0; y < rows; ++y) {
        std::fill_n(frame->data[plane] + std::ptrdiff_t(y) * frame->linesize[plane], frame->linesize[plane],
                    std::uint8_t(value));
      }
    }
    frame->pts = i;
    require(avcodec_send_frame(codec.get(), i == frames ? nullptr : frame.get()) >= 0, "not encoded");
    while (avcodec_receive_packet(codec.get(), packet.get()) >= 0) {
      packet->duration = 1;  // else MOV does not show the last frame
      av_packet_rescale_ts(packet.get(), codec->time_base, stream->time_base);
      require(av_interleaved_write_frame(context, packet.get()) >= 0, "not written");
    }
  }
  av_write_trailer(context);
  avio_closep(&context->pb);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

Failure refused(const fs::path& file) {
  const Failure info = failure_of([&] { clip_info(file); });
  const Failure clip = failure_of([&] { read_clip(file, {1, 16, 16}); });
  CHECK(info.code == clip.code);
  CHECK_THAT(info.message, Contains(file.string()));
  CHECK_THAT(clip.message, Contains(file.string()));
  return info;
}

}  // namespace

TEST_CASE("a video's frames in their order", "[clip]") {
  const Scratch scratch;
  const fs::path file = scratch / "a clip: %d.txt";  // the name says nothing, and is no pattern
  write_clip(scratch / "clip.mp4", 12);
  fs::rename(scratch / "clip.mp4", file);
  const ClipInfo info = clip_info(file);
  CHECK(info.frames == 12);
  CHECK(info.width == 48);
  CHECK(info.height == 32);
  CHECK_FALSE(info.is_image);
  for (const int frames : {1, 5, 12}) {
    const at::Tensor clip = read_clip(file, {frames, 32, 48});
    REQUIRE(clip.sizes() == at::IntArrayRef{frames, 3, 32, 48});
    CHECK(clip.scalar_type() == at::kByte);
    CHECK(clip.is_contiguous());
    for (int i = 0; i < frames; ++i) {
      const at::Tensor expected = at::full({3, 32, 24}, level_of(i), at::kByte);
      CHECK(largest_difference(clip[i].slice(2, 24), expected) < 4);
      CHECK(std::abs(clip[i][0][16][4].item<int>() - 220) < 6);  // BT.709, as the file says
      CHECK(std::abs(clip[i][2][16][4].item<int>() - 20) < 6);
    }
  }
}

TEST_CASE("a picture's pixels are what was written", "[clip]") {
  const Scratch scratch;
  write_picture(scratch / "a.png");
  const ClipInfo info = clip_info(scratch / "a.png");
  CHECK(info.frames == 1);
  CHECK(info.width == 48);
  CHECK(info.height == 32);
  CHECK(info.is_image);
  const at::Tensor x = at::arange(48).expand({32, 48}), y = at::arange(32).view({32, 1}).expand({32, 48});
  const at::Tensor expected = at::stack({x, y, at::full_like(x, 7)});
  CHECK(largest_difference(read_clip(scratch / "a.png", {1, 32, 48})[0], expected) == 0);
  // The middle of what covers the wanted size.
  const at::Tensor narrow = read_clip(scratch / "a.png", {1, 32, 16})[0];
  CHECK(largest_difference(narrow, expected.slice(2, 16, 32)) == 0);
  const at::Tensor flat = read_clip(scratch / "a.png", {1, 16, 48})[0];
  CHECK(largest_difference(flat, expected.slice(1, 8, 24)) == 0);
}

TEST_CASE("what is larger or smaller is scaled so that it covers the wanted size", "[clip]") {
  const Scratch scratch;
  write_picture(scratch / "a.png", 96, 64);
  const at::Tensor half = read_clip(scratch / "a.png", {1, 32, 32})[0];  // 48x32, then its middle
  REQUIRE(half.sizes() == at::IntArrayRef{3, 32, 32});
  const at::Tensor x = 16.5 + 2 * at::arange(32).expand({32, 32});
  CHECK(largest_difference(half[0], x) <= 1);
  CHECK(largest_difference(half[1].slice(0, 2, 30),
                           (.5 + 2 * at::arange(2, 30)).view({28, 1}).expand({28, 32})) <= 1);
  const at::Tensor large = read_clip(scratch / "a.png", {1, 128, 100})[0];  // 192x128
  REQUIRE(large.sizes() == at::IntArrayRef{3, 128, 100});
  CHECK(std::abs(large[0][64][50].item<int>() - 48) <= 1);
  CHECK(std::abs(large[1][64][50].item<int>() - 32) <= 1);
}

TEST_CASE("videos of other kinds", "[clip]") {
  const Scratch scratch;
  struct Case {
    const char* name;
    AVCodecID codec;
    AVPixelFormat pixels;
  };
  for (const Case& one : {Case{"a.avi", AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ420P},
                          Case{"a.mkv", AV_CODEC_ID_FFV1, AV_PIX_FMT_YUV444P},
                          Case{"a.mov", AV_CODEC_ID_MPEG4, AV_PIX_FMT_YUV420P}}) {
    INFO(one.name);
    write_media(scratch / one.name, one.codec, one.pixels, 5);
    CHECK(clip_info(scratch / one.name).frames == 5);
    CHECK_FALSE(clip_info(scratch / one.name).is_image);
    const at::Tensor clip = read_clip(scratch / one.name, {5, 16, 32});
    for (int i = 0; i < 5; ++i) {
      const bool full_range = one.pixels == AV_PIX_FMT_YUVJ420P;
      const double gray = full_range ? level_of(i) : (level_of(i) - 16) * 255. / 219;
      CHECK(largest_difference(clip[i], at::full({3, 16, 32}, gray)) < 4);
    }
  }
}

TEST_CASE("a GIF is a video, or a picture where it has one frame", "[clip]") {
  const Scratch scratch;
  write_media(scratch / "one.gif", AV_CODEC_ID_GIF, AV_PIX_FMT_RGB8, 1);
  write_media(scratch / "more.gif", AV_CODEC_ID_GIF, AV_PIX_FMT_RGB8, 5);
  CHECK(clip_info(scratch / "one.gif").is_image);
  CHECK(clip_info(scratch / "one.gif").frames == 1);
  CHECK_FALSE(clip_info(scratch / "more.gif").is_image);
  CHECK(clip_info(scratch / "more.gif").frames == 5);
  const at::Tensor clip = read_clip(scratch / "more.gif", {5, 16, 32});
  for (int i = 0; i < 5; ++i) {
    CHECK(largest_difference(clip[i], at::full({3, 16, 32}, i % 2 ? 255 : 0)) <= 3);  // GIF's palette
  }
}

TEST_CASE("a clip that ends early counts as far as it is there", "[clip]") {
  const Scratch scratch;
  write_clip(scratch / "whole.mp4", 33, 64, 64);
  const std::string whole = contents(scratch / "whole.mp4");
  const at::Tensor first = read_clip(scratch / "whole.mp4", {5, 64, 64});
  const fs::path cut = scratch / "cut.mp4";
  put(cut, whole.substr(0, whole.size() - 100));
  const int64_t frames = clip_info(cut).frames;
  CHECK(frames > 5);
  CHECK(frames < 33);
  CHECK(at::equal(read_clip(cut, {5, 64, 64}), first));
  const Failure failure = failure_of([&] { read_clip(cut, {33, 64, 64}); });
  CHECK(failure.code == ExitCode::bad_data);
  CHECK_THAT(failure.message, Contains(cut.string() + ": "));
  const Failure more = failure_of([&] { read_clip(scratch / "whole.mp4", {34, 64, 64}); });
  CHECK(more.code == ExitCode::bad_data);
  CHECK_THAT(more.message, Contains("whole.mp4: ends after 33 frames, 34 are wanted"));
}

TEST_CASE("a broken clip never crashes, and its first damage ends it", "[clip]") {
  const Scratch scratch;
  write_clip(scratch / "whole.mp4", 9, 64, 64);
  write_picture(scratch / "whole.png");
  write_media(scratch / "whole.avi", AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ420P, 5);
  for (const char* name : {"whole.mp4", "whole.png", "whole.avi"}) {
    const std::string whole = contents(scratch / name);
    uint64_t random = 1;
    for (int round = 0; round < 60; ++round) {
      std::string changed = whole;
      for (int k = 0; k < 3; ++k) {
        random = random * 6364136223846793005U + 1442695040888963407U;
        changed[(random >> 33) % changed.size()] ^= char(1 << (random >> 61));
      }
      if (round % 3 == 0) changed.resize((random >> 20) % changed.size());
      put(scratch / "changed", changed);
      for (const auto& action : {+[](const fs::path& file) { clip_info(file); },
                                 +[](const fs::path& file) {
                                   read_clip(file, {5, 16, 16});
                                 }}) {
        const Failure failure = failure_of([&] { action(scratch / "changed"); });
        INFO(name << ": " << failure.message);
        CHECK((failure.message.empty() || failure.code == ExitCode::bad_data));
        if (!failure.message.empty()) CHECK_THAT(failure.message, Contains((scratch / "changed").string()));
      }
    }
  }
}

TEST_CASE("what is no clip is refused, and no other file is opened", "[clip]") {
  const Scratch scratch;
  put(scratch / "text.mp4", "a red fox, left of a tree\n");
  const Failure text = refused(scratch / "text.mp4");
  CHECK(text.code == ExitCode::bad_data);
  CHECK_THAT(text.message, Contains("is no video or picture"));
  put(scratch / "empty.mp4", "");
  const Failure empty = refused(scratch / "empty.mp4");
  CHECK(empty.code == ExitCode::bad_data);
  CHECK_THAT(empty.message, Contains("empty.mp4: is empty"));
  write_clip(scratch / "inside.mp4", 1);
  put(scratch / "list.mp4", "ffconcat version 1.0\nfile " + (scratch / "inside.mp4").string() + "\n");
  CHECK_THAT(refused(scratch / "list.mp4").message, Contains("is no video or picture"));
  put(scratch / "hls.mp4",
      "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n" + (scratch / "inside.mp4").string() + "\n");
  CHECK_THAT(refused(scratch / "hls.mp4").message, Contains("is no video or picture"));
  put(scratch / "sound.wav",
      std::string("RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x44\xAC\0\0\x88\x58\1\0\2\0\x10\0data\0\0\0\0",
                  44));
  CHECK_THAT(refused(scratch / "sound.wav").message, Contains("is no video or picture but of the kind"));
}

TEST_CASE("a clip that is not there, or no file", "[clip]") {
  const Scratch scratch;
  const Failure missing = refused(scratch / "none.mp4");
  CHECK(missing.code == ExitCode::missing_file);
  CHECK_THAT(missing.message, Contains("no such file"));
  CHECK(refused(scratch.path()).code == ExitCode::missing_file);
  REQUIRE(mkfifo((scratch / "pipe.mp4").c_str(), 0600) == 0);
  const Failure pipe = refused(scratch / "pipe.mp4");
  CHECK(pipe.code == ExitCode::missing_file);
  CHECK_THAT(pipe.message, Contains("is a FIFO"));
}

TEST_CASE("a form that cannot be made to cover the wanted one", "[clip]") {
  const Scratch scratch;
  write_picture(scratch / "line.png", 20000, 1);
  CHECK(clip_info(scratch / "line.png").width == 20000);
  const Failure failure = failure_of([&] { read_clip(scratch / "line.png", {1, 512, 512}); });
  CHECK(failure.code == ExitCode::bad_data);
  CHECK_THAT(failure.message, Contains("line.png: 20000x1 cannot be scaled to cover 512x512"));
}

}  // namespace frameshard

#else

TEST_CASE("without libav a clip is a configuration error that names the packages", "[clip]") {
  using namespace frameshard;
  CHECK_FALSE(can_read_clip());
  const test::Failure failure = test::failure_of([] { clip_info("a.mp4"); });
  CHECK(failure.code == ExitCode::config);
  CHECK_THAT(failure.message, test::Contains("a.mp4") && test::Contains("libavformat-dev"));
}

#endif
