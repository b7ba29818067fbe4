// Videos: what is written is what is read back, and nothing half-written stays.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/video_writer.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"
#include "tests/support/video_reader.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;
using namespace test;
using Pixels = std::vector<std::uint8_t>;
using Colour = std::array<int, 3>;

}  // namespace

#ifdef FRAMESHARD_HAVE_LIBAV

namespace {

constexpr int kWidth = 96;
constexpr int kHeight = 64;
constexpr int kSquare = 16;
constexpr Colour kBackground{40, 44, 52};

VideoFormat format_of(int fps = 24) {
  return {kWidth, kHeight, fps, {}};
}

/// A frame with a square of one colour whose upper left corner is at (x, y).
Pixels frame_with_square(int x, int y, const Colour& colour) {
  Pixels pixels;
  for (int row = 0; row < kHeight; ++row) {
    for (int column = 0; column < kWidth; ++column) {
      const bool inside = row >= y && row < y + kSquare && column >= x && column < x + kSquare;
      for (const int channel : inside ? colour : kBackground)
        pixels.push_back(static_cast<std::uint8_t>(channel));
    }
  }
  return pixels;
}

/// Frames that do not compress, so that they reach the disk before the end.
Pixels noise(unsigned seed) {
  Pixels pixels(std::size_t{3} * kWidth * kHeight);
  unsigned state = seed * 2654435761u + 1;
  for (auto& value : pixels) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<std::uint8_t>(state >> 24);
  }
  return pixels;
}

bool close_to(const Pixels& frame, int x, int y, const Colour& colour, int tolerance) {
  const std::size_t at = std::size_t{3} * (static_cast<std::size_t>(y) * kWidth + x);
  for (int channel = 0; channel < 3; ++channel) {
    if (std::abs(frame[at + channel] - colour[channel]) > tolerance) {
      UNSCOPED_INFO("at " << x << "," << y << " channel " << channel << ": " << int{frame[at + channel]}
                          << " for " << colour[channel]);
      return false;
    }
  }
  return true;
}

void write_video(const fs::path& path, VideoFormat format, const std::vector<Pixels>& frames) {
  VideoWriter writer(path, std::move(format));
  for (const Pixels& frame : frames) writer.write(frame);
  writer.finish();
}

std::vector<Pixels> moving_square(int count, const Colour& colour) {
  std::vector<Pixels> frames;
  for (int i = 0; i < count; ++i) frames.push_back(frame_with_square(4 + 4 * i, 8 + 2 * i, colour));
  return frames;
}

/// From here on, this process can write no file beyond `bytes`.
void limit_files_to(rlim_t bytes) {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, bytes};
  require(setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit failed");
}

/// This process's descriptor of the one temporary below `directory`, or -1.
int descriptor_of_temporary(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    const std::string target = fs::read_symlink(entry.path(), ignored).string();
    if (target.rfind(directory.string(), 0) == 0 && target.find(".tmp-") != std::string::npos) {
      return std::stoi(entry.path().filename().string());
    }
  }
  return -1;
}

}  // namespace

TEST_CASE("a video decodes to what was written", "[video]") {
  const Scratch scratch;
  const Colour colour =
      GENERATE(Colour{220, 40, 50}, Colour{30, 200, 60}, Colour{40, 60, 230}, Colour{250, 250, 250});
  write_video(scratch / "out.mp4", format_of(), moving_square(17, colour));
  CHECK(scratch.names() == std::set<std::string>{"out.mp4"});

  const testing::DecodedVideo video = testing::read_video(scratch / "out.mp4");
  CHECK(video.width == kWidth);
  CHECK(video.height == kHeight);
  CHECK(video.fps == 24);
  CHECK(video.codec == "h264");
  CHECK(video.pixel_format == "yuv420p");
  CHECK(video.colours == "tv/bt709/bt709/bt709");
  REQUIRE(video.frames.size() == 17);
  for (int i = 0; i < 17; ++i) {
    const int x = 4 + 4 * i;
    const int y = 8 + 2 * i;
    const Pixels& frame = video.frames[static_cast<std::size_t>(i)];
    REQUIRE(frame.size() == std::size_t{3} * kWidth * kHeight);
    INFO("frame " << i);
    // Four pixels from the edges: nearer, chroma at half resolution mixes the two colours.
    for (const int dx : {4, kSquare - 5}) CHECK(close_to(frame, x + dx, y + 8, colour, 16));
    for (const int dy : {4, kSquare - 5}) CHECK(close_to(frame, x + 8, y + dy, colour, 16));
    CHECK(close_to(frame, x - 4, y + 8, kBackground, 16));
    CHECK(close_to(frame, x + kSquare + 3, y + 8, kBackground, 16));
    CHECK(close_to(frame, x + 8, y - 4, kBackground, 16));
    CHECK(close_to(frame, x + 8, y + kSquare + 3, kBackground, 16));
  }
}

TEST_CASE("one frame, few frames and other rates keep count and rate", "[video]") {
  const Scratch scratch;
  const int fps = GENERATE(1, 16, 24, 60);
  const int count = GENERATE(1, 2, 5);
  write_video(scratch / "out.mp4", format_of(fps), moving_square(count, {220, 40, 50}));
  const testing::DecodedVideo video = testing::read_video(scratch / "out.mp4");
  CHECK(video.frames.size() == static_cast<std::size_t>(count));
  CHECK(video.fps == fps);
  CHECK(std::abs(video.seconds - static_cast<double>(count) / fps) < 2e-3);  // MP4 counts milliseconds
}

TEST_CASE("sizes that are no multiple of a macroblock are kept", "[video]") {
  const Scratch scratch;
  const auto [width, height] = GENERATE(std::pair{2, 2}, std::pair{34, 18}, std::pair{50, 46});
  CAPTURE(width, height);
  const Pixels grey(std::size_t{3} * width * height, 120);
  write_video(scratch / "out.mp4", {width, height, 24, {}}, {grey, grey, grey});
  const testing::DecodedVideo video = testing::read_video(scratch / "out.mp4");
  CHECK(video.width == width);
  CHECK(video.height == height);
  REQUIRE(video.frames.size() == 3);
  REQUIRE(video.frames[2].size() == grey.size());
  for (const int value : video.frames[2]) REQUIRE(std::abs(value - 120) <= 4);
}

TEST_CASE("metadata survives under any key", "[video]") {
  const Scratch scratch;
  std::string prompt = "a \"quoted\" cat; it's = 1\n[section]\r\n\tkey=value\\; # no comment ";
  for (int i = 0; i < 400; ++i) prompt += "— a long prompt, дальше, 続く 🎬; ";
  const std::map<std::string, std::string> metadata = {
      {"title", "Überschrift"},
      {"comment", "made for a test"},
      {"prompt", prompt},
      {"seed", "18446744073709551615"},
      {"config_hash", "sha256:00ff"},
      {"com.example.key with spaces", "x"},
      {"Schlüssel", "0"},
  };
  VideoFormat format = format_of();
  format.metadata = metadata;
  write_video(scratch / "out.mp4", format, moving_square(3, {220, 40, 50}));
  const testing::DecodedVideo video = testing::read_video(scratch / "out.mp4");
  for (const auto& [key, value] : metadata) {
    INFO(key);
    REQUIRE(video.metadata.count(key) == 1);
    CHECK(video.metadata.at(key) == value);
  }
  // What would differ from run to run or from build to build.
  CHECK(video.metadata.count("creation_time") == 0);
  CHECK(video.metadata.count("encoder") == 0);
}

TEST_CASE("the same frames give the same bytes, with the index in front", "[video]") {
  const Scratch scratch;
  VideoFormat format = format_of();
  format.metadata = {{"prompt", "a cat"}, {"seed", "1"}};
  std::vector<Pixels> frames = moving_square(10, {220, 40, 50});
  for (unsigned i = 0; i < 20; ++i) frames.push_back(noise(i));
  write_video(scratch / "a.mp4", format, frames);
  write_video(scratch / "a longer name.mp4", format, frames);
  const std::string first = contents(scratch / "a.mp4");
  CHECK(first.size() > 10000);
  CHECK((first == contents(scratch / "a longer name.mp4")));
  CHECK(first.find("moov") < first.find("mdat"));
  frames.back() = noise(99);
  write_video(scratch / "b.mp4", format, frames);
  CHECK((first != contents(scratch / "b.mp4")));
}

TEST_CASE("paths with spaces, colons, percents and other scripts", "[video]") {
  const Scratch scratch;
  const std::string name =
      GENERATE("a b.mp4", "http:x.mp4", "100%25 ?&#.mp4", "видео.mp4", "no suffix", "x.avi");
  write_video(scratch / name, format_of(), moving_square(2, {220, 40, 50}));
  CHECK(scratch.names() == std::set<std::string>{name});
  CHECK(testing::read_video(scratch / name).frames.size() == 2);
}

TEST_CASE("a relative path that looks like an address", "[video]") {
  const Scratch scratch;
  fs::create_directory(scratch / "http:");
  const fs::path before = fs::current_path();
  fs::current_path(scratch.path());
  const Failure failure = failure_of([] {
    write_video("http:/out.mp4", format_of(), moving_square(2, {220, 40, 50}));
  });
  fs::current_path(before);
  CHECK(failure.message == "");
  CHECK(testing::read_video(scratch / "http:" / "out.mp4").frames.size() == 2);
}

TEST_CASE("a video that is not finished leaves nothing, and an older one as it was", "[video]") {
  const Scratch scratch;
  std::ofstream(scratch / "out.mp4") << "older";
  {
    VideoWriter writer(scratch / "out.mp4", format_of());
    for (unsigned i = 0; i < 80; ++i) writer.write(noise(i));
    CHECK(scratch.names().size() == 2);
  }
  { const VideoWriter unused(scratch / "unused.mp4", format_of()); }
  CHECK(scratch.names() == std::set<std::string>{"out.mp4"});
  CHECK(contents(scratch / "out.mp4") == "older");
}

TEST_CASE("a process killed while it writes a video leaves none", "[video]") {
  const Scratch scratch;
  int ready[2];
  REQUIRE(pipe(ready) == 0);
  const pid_t child = fork();
  if (child == 0) {
    close(ready[0]);
    const Failure failure = failure_of([&] {
      VideoWriter writer(scratch / "out.mp4", format_of());
      for (unsigned i = 0; i < 80; ++i) writer.write(noise(i));
      require(::write(ready[1], "r", 1) == 1, "the parent is gone");
      for (;;) pause();
    });
    _exit(static_cast<int>(failure.code));
  }
  close(ready[1]);
  char byte = 0;
  CHECK(read(ready[0], &byte, 1) == 1);
  close(ready[0]);
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK_FALSE(fs::exists(scratch / "out.mp4"));
  CHECK(scratch.names().size() == 1);
  remove_stale_temporaries(scratch.path());
  CHECK(scratch.names().empty());
}

TEST_CASE("sizes and rates that cannot be encoded are configuration errors", "[video]") {
  const Scratch scratch;
  struct Case {
    int width, height, fps;
    const char* reason;
  };
  const Case cases[] = {{95, 64, 24, "even width and height, not 95x64"},
                        {96, 63, 24, "even width and height, not 96x63"},
                        {0, 64, 24, "even width and height, not 0x64"},
                        {96, -2, 24, "even width and height, not 96x-2"},
                        {96, 64, 0, "at least 1 frame a second, not 0"}};
  for (const Case& wrong : cases) {
    const Failure failure = failure_of([&] {
      VideoWriter(scratch / "out.mp4", {wrong.width, wrong.height, wrong.fps, {}});
    });
    CHECK(failure.code == ExitCode::config);
    CHECK_THAT(failure.message, Contains((scratch / "out.mp4").string()) && Contains(wrong.reason));
  }
  CHECK(scratch.names().empty());
}

TEST_CASE("misuse of the writer is a defect of ours", "[video]") {
  const Scratch scratch;
  VideoWriter empty(scratch / "empty.mp4", format_of());
  const Failure without_frame = failure_of([&] { empty.finish(); });
  CHECK(without_frame.code == ExitCode::internal);
  CHECK_THAT(without_frame.message, Contains("empty.mp4") && Contains("without a frame"));

  VideoWriter writer(scratch / "out.mp4", format_of());
  const Failure size = failure_of([&] { writer.write(Pixels(10)); });
  CHECK(size.code == ExitCode::internal);
  CHECK_THAT(size.message, Contains("out.mp4") && Contains("a frame of 96x64 cannot have 10 bytes"));
  CHECK(scratch.names().empty());
  CHECK_THAT(failure_of([&] { writer.write(noise(0)); }).message, Contains("after its end"));
  CHECK_THAT(failure_of([&] { writer.finish(); }).message, Contains("after its end"));
}

TEST_CASE("a video in an unwritable place is an I/O error that names it", "[video]") {
  const Scratch scratch;
  std::ofstream(scratch / "file") << "x";
  const fs::path path = scratch / "file" / "out.mp4";
  const Failure failure = failure_of([&] { VideoWriter(path, format_of()); });
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message, Contains("cannot create " + path.string()) && Contains("Not a directory"));
}

TEST_CASE("a disk that fills up during the frames leaves nothing", "[video]") {
  const Scratch scratch;
  std::optional<VideoWriter> writer(std::in_place, scratch / "out.mp4", format_of());
  const int descriptor = descriptor_of_temporary(scratch.path());
  REQUIRE(descriptor >= 0);
  const int full = open("/dev/full", O_RDWR | O_CLOEXEC);
  REQUIRE(dup2(full, descriptor) == descriptor);
  close(full);
  const Failure failure = failure_of([&] {
    for (unsigned i = 0; i < 400; ++i) writer->write(noise(i));
  });
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message, Contains("cannot write " + (scratch / "out.mp4").string()) &&
                                  Contains("No space left on device") && Contains("bytes are left on that"));
  CHECK(scratch.names().empty());  // although the writer still lives
}

TEST_CASE("a file that may not grow at any point of its writing leaves nothing", "[video]") {
  const Scratch scratch;
  std::vector<Pixels> frames;
  for (unsigned i = 0; i < 60; ++i) frames.push_back(noise(i));
  write_video(scratch / "whole.mp4", format_of(), frames);
  const auto size = fs::file_size(scratch / "whole.mp4");
  fs::remove(scratch / "whole.mp4");
  // In the frames, at their last flush, and when the index moves to the front.
  const rlim_t limit = GENERATE_COPY(rlim_t{0}, rlim_t{100000}, rlim_t{size - 1500}, rlim_t{size - 1});
  CAPTURE(size, limit);
  const Failure failure = failure_in_child([&] {
    limit_files_to(limit);
    write_video(scratch / "out.mp4", format_of(), frames);
  });
  CHECK(failure.code == ExitCode::io);
  CHECK_THAT(failure.message,
             Contains("cannot write " + (scratch / "out.mp4").string()) && Contains("File too large"));
  CHECK(scratch.names().empty());

  CHECK(failure_in_child([&] {
          limit_files_to(size);
          write_video(scratch / "out.mp4", format_of(), frames);
        }).message == "");
  CHECK(testing::read_video(scratch / "out.mp4").frames.size() == 60);
}

#else

TEST_CASE("without libav a video is a configuration error that names the packages", "[video]") {
  const Scratch scratch;
  const Failure failure = failure_of([&] { VideoWriter(scratch / "out.mp4", {64, 64, 24, {}}); });
  CHECK(failure.code == ExitCode::config);
  CHECK_THAT(failure.message, Contains((scratch / "out.mp4").string()) &&
                                  Contains("libavformat-dev libavcodec-dev libavutil-dev libswscale-dev"));
  CHECK(scratch.names().empty());
}

#endif

}  // namespace frameshard
