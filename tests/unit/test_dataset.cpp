// Folders of clips and pictures: captions, repeats, sizes, and what is refused or left out.
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/error.h"
#include "models/training/buckets.h"
#include "models/training/captions.h"
#include "models/training/dataset.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"
#include "tests/support/scratch.h"
#include "tests/support/small_clips.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;
using namespace test;

DataConfig small(int64_t frames = 5) {
  DataConfig config;
  config.width = 48;
  config.height = 32;
  config.num_frames = frames;
  return config;
}

std::string summary(const Dataset& data) {
  std::string text;
  for (const DataItem& item : data.items()) {
    text += fmt::format("{} \"{}\" x{} {}x{}x{}\n", item.name, item.caption, item.repeats, item.size.frames,
                        item.size.height, item.size.width);
  }
  return text;
}

Failure refused(const fs::path& folder, const DataConfig& config = small(),
                const DatasetOptions& options = {}) {
  return failure_of([&] { open_folder(folder, config, options); });
}

}  // namespace

TEST_CASE("a folder of clips and pictures, sorted, with captions from all three places", "[training]") {
  if (no_clips()) return;
  const Scratch scratch;
  fs::create_directories(scratch / "40_a red fox");
  fs::create_directories(scratch / "b/.hidden");
  write_clip(scratch / "z.MP4.mp4", 9);
  put(scratch / "z.MP4.txt", "\xEF\xBB\xBF  a clip\r\n");
  write_picture(scratch / "40_a red fox/1.png");
  write_picture(scratch / "40_a red fox/2.png");
  put(scratch / "40_a red fox/2.txt", "a fox that sits");
  write_picture(scratch / "b/PICTURE.PNG");
  write_picture(scratch / "b/other.png");
  write_picture(scratch / "b/.hidden/x.png");
  write_picture(scratch / "b/._other.png");
  put(scratch / "b/notes.md", "no clip");
  put(scratch / "b/metadata.jsonl",
      "{\"file_name\": \"PICTURE.PNG\", \"text\": \" of b \", \"width\": 3}\n\n"
      "{\"caption\": \"other\", \"file_name\": \"./other.png\"}\n");
  DataConfig config = small();
  config.repeats = 2;
  const auto data = open_folder(fs::path(scratch.path().string() + "/"), config, {});
  CHECK(summary(*data) ==
        "40_a red fox/1.png \"a red fox\" x80 1x32x48\n"
        "40_a red fox/2.png \"a fox that sits\" x80 1x32x48\n"
        "b/PICTURE.PNG \"of b\" x2 1x32x48\n"
        "b/other.png \"other\" x2 1x32x48\n"
        "z.MP4.mp4 \"a clip\" x2 5x32x48\n");
  CHECK(data->skipped().empty());
  const at::Tensor clip = data->frames(4), picture = data->frames(0);
  CHECK(clip.sizes() == at::IntArrayRef{1, 3, 5, 32, 48});
  CHECK(clip.scalar_type() == at::kFloat);
  for (int i = 0; i < 5; ++i) {
    CHECK(std::abs(clip[0][1][i][16][40].item<float>() - (level_of(i) / 127.5F - 1)) < .03F);
  }
  CHECK(picture.sizes() == at::IntArrayRef{1, 3, 1, 32, 48});
  CHECK(picture[0][0][0][5][9].item<float>() == 9 / 127.5F - 1);
  CHECK(picture[0][1][0][5][9].item<float>() == 5 / 127.5F - 1);
}

TEST_CASE("an item's identity is its content and size, not its name or caption", "[training]") {
  if (no_clips()) return;
  const Scratch scratch;
  write_picture(scratch / "a.png");
  write_picture(scratch / "b.png");
  write_picture(scratch / "c.png", 48, 33);
  DataConfig config = small();
  const auto data = open_folder(scratch.path(), config, {.caption = "x"});
  const auto& items = data->items();
  REQUIRE(items.size() == 3);
  CHECK(items[0].identity == items[1].identity);
  CHECK(items[0].identity != items[2].identity);
  CHECK(open_folder(scratch.path(), config, {.caption = "y"})->items()[0].identity == items[0].identity);
  config.width = 32;
  CHECK(open_folder(scratch.path(), config, {.caption = "x"})->items()[0].identity != items[0].identity);
}

TEST_CASE("a caption for all, a mark for the class, and the first ones alone", "[training]") {
  if (no_clips()) return;
  const Scratch scratch;
  for (const char* name : {"a.png", "b.png", "c.png"}) write_picture(scratch / name);
  put(scratch / "a.txt", "not this one");
  const auto data =
      open_folder(scratch.path(), small(), {.prior = true, .caption = "a fox", .most_items = 2});
  CHECK(summary(*data) == "a.png \"a fox\" x1 1x32x48\nb.png \"a fox\" x1 1x32x48\n");
  CHECK(data->items()[1].prior);
}

TEST_CASE("missing captions are one error that names the first", "[training]") {
  if (no_clips()) return;
  const Scratch scratch;
  for (int i = 0; i < 8; ++i) write_picture(scratch / fmt::format("{}.png", i));
  put(scratch / "0.txt", "a fox");
  put(scratch / "1.txt", " \n");
  const Failure failure = refused(scratch.path());
  CHECK(failure.code == ExitCode::bad_data);
  CHECK(
      failure.message ==
      scratch.path().string() +
          ": 7 of 8 videos and pictures have no caption: 1.png, 2.png, 3.png, 4.png, 5.png and 2 more; write "
          "NAME.txt beside each, or metadata.jsonl, or set data.missing_captions=empty");
  DataConfig config = small();
  config.missing_captions = "empty";
  const auto data = open_folder(scratch.path(), config, {});
  REQUIRE(data->items().size() == 8);
  CHECK(data->items()[0].caption == "a fox");
  CHECK(data->items()[7].caption.empty());
}

TEST_CASE("what cannot be used is left out with its reason, or ends the run", "[training]") {
  if (no_clips()) return;
  const Scratch scratch;
  write_clip(scratch / "good.mp4", 5);
  write_clip(scratch / "short.mp4", 4);
  write_clip(scratch / "small.mp4", 5, 32, 32);
  put(scratch / "text.mp4", "no clip");
  put(scratch / "empty.png", "");
  fs::create_symlink(scratch / "none.png", scratch / "lost.png");
  fs::create_directories(scratch / "0_never");
  write_picture(scratch / "0_never/a.png");
  const auto data = open_folder(scratch.path(), small(), {.caption = "x"});
  CHECK(summary(*data) == "good.mp4 \"x\" x1 5x32x48\n");
  std::vector<std::string> skipped;
  for (const auto& [name, reason] : data->skipped()) skipped.push_back(name + " " + reason);
  REQUIRE(skipped.size() == 6);
  CHECK(skipped[0] == "0_never/a.png is in a folder whose name says 0 times");
  CHECK_THAT(skipped[1], Contains("empty.png cannot be used: ") && Contains("is empty"));
  CHECK_THAT(skipped[2], Contains("lost.png cannot be used: ") && Contains("no such file"));
  CHECK_THAT(skipped[3], Contains("short.mp4 is too short: 4 frames, data.num_frames is 5"));
  CHECK_THAT(skipped[4], Contains("small.mp4 is too small: 32x32 pixels for 48x32"));
  CHECK_THAT(skipped[5], Contains("text.mp4 cannot be used: ") && Contains("is no video or picture"));

  const Failure strict = refused(scratch.path(), small(), {.caption = "x", .fail_on_bad_item = true});
  CHECK(strict.code == ExitCode::bad_data);
  CHECK_THAT(strict.message, Contains("0_never/a.png is in a folder whose name says 0 times"));

  fs::remove(scratch / "good.mp4");
  const Failure none = refused(scratch.path(), small(), {.caption = "x"});
  CHECK(none.code == ExitCode::bad_data);
  CHECK_THAT(none.message,
             Contains("none of its 6 videos and pictures can be trained on: 0_never/a.png is in") &&
                 Contains("short.mp4 is too short") && Contains("and 1 more"));
}

TEST_CASE("a clip whose end is damaged is used, one that is damaged where it is needed is 65", "[training]") {
  if (no_clips()) return;
  const Scratch scratch;
  write_clip(scratch / "cut.mp4", 33, 64, 64);
  const std::string whole = contents(scratch / "cut.mp4");
  put(scratch / "cut.mp4", whole.substr(0, whole.size() - 100));
  const auto data = open_folder(scratch.path(), small(), {.caption = "x"});
  REQUIRE(data->items().size() == 1);
  CHECK(data->frames(0).size(2) == 5);
  put(scratch / "cut.mp4", whole.substr(0, whole.size() / 20));  // changed meanwhile
  const Failure failure = failure_of([&] { data->frames(0); });
  CHECK(failure.code == ExitCode::bad_data);
  CHECK_THAT(failure.message, Contains("cut.mp4: "));
}

TEST_CASE("a folder that is missing or holds nothing", "[training]") {
  const Scratch scratch;
  const Failure missing = refused(scratch / "none");
  CHECK(missing.code == ExitCode::missing_file);
  CHECK_THAT(missing.message, Contains((scratch / "none").string() + ": no such folder"));
  put(scratch / "a.txt", "a caption alone");
  const Failure empty = refused(scratch.path());
  CHECK(empty.code == ExitCode::bad_data);
  CHECK_THAT(empty.message, Contains("holds no video or picture (.mp4 .mkv") && Contains(".bmp)"));
}

TEST_CASE("metadata.jsonl that cannot be right", "[training]") {
  if (no_clips()) return;
  const Scratch scratch;
  fs::create_directories(scratch / "data");
  write_picture(scratch / "data/a.png");
  write_picture(scratch / "secret.png");
  const auto error = [&](const std::string& text) {
    put(scratch / "data/metadata.jsonl", text);
    const Failure failure = refused(scratch / "data");
    CHECK(failure.code == ExitCode::bad_data);
    return failure.message;
  };
  const std::string good = "{\"file_name\": \"a.png\", \"prompt\": \"x\"}\n";
  CHECK_THAT(error(good + "{\"file_name\": "), Contains("metadata.jsonl:2: is no JSON object: \"{"));
  CHECK_THAT(error("[]"), Contains("metadata.jsonl:1: is no JSON object"));
  CHECK_THAT(error("{\"caption\": \"x\"}"), Contains(":1: has no text \"file_name\""));
  CHECK_THAT(error("{\"file_name\": 3, \"caption\": \"x\"}"), Contains(":1: has no text \"file_name\""));
  CHECK_THAT(error("{\"file_name\": \"a.png\", \"title\": \"x\"}"),
             Contains("no text \"caption\", \"text\" or"));
  CHECK_THAT(error(good + good), Contains(":2: \"a.png\" has a caption already"));
  CHECK_THAT(error("{\"file_name\": \"b.png\", \"text\": \"x\"}"),
             Contains(":1: names \"b.png\", but there is no such video or picture in "));
  for (const std::string& name : {std::string("../secret.png"), (scratch / "secret.png").string(),
                                  std::string("x/../../secret.png"), std::string()}) {
    CHECK_THAT(error("{\"file_name\": \"" + name + "\", \"text\": \"x\"}"),
               Contains("is outside the folder"));
  }
  CHECK_THAT(error("{\"file_name\": \"a.png\", \"text\": \"\xFF\"}"),
             Contains("metadata.jsonl: is no UTF-8 text from byte 32"));
  put(scratch / "data/a.txt", "caf\xE9");
  CHECK_THAT(error(good), Contains("a.txt: is no UTF-8 text from byte 3 on"));
}

TEST_CASE("folders that repeat what they hold", "[training]") {
  CHECK(repeat_folder("a.png").repeats == 1);
  CHECK(repeat_folder("40_fox/a.png").repeats == 40);
  CHECK(repeat_folder("40_fox/a.png").caption == "fox");
  CHECK(repeat_folder("40_fox/3_the_white one/x/a.png").repeats == 3);
  CHECK(repeat_folder("40_fox/3_the_white one/x/a.png").caption == "the_white one");
  CHECK(repeat_folder("40/_5/x_3/7_a.png").repeats == 1);
  CHECK(repeat_folder("40_/a.png").repeats == 40);
  CHECK(repeat_folder("40_/a.png").caption.empty());
  for (const char* name : {"20240131_holiday/a.png", "99999999999999999999_x/a.png"}) {
    const Failure date = failure_of([&] { repeat_folder(name); });
    CHECK(date.code == ExitCode::bad_data);
    CHECK_THAT(date.message, Contains("repeated") && Contains("does not begin with a number and _"));
  }
}

TEST_CASE("buckets have about the wanted pixels, and the form nearest to the item's", "[training]") {
  DataConfig config;
  config.width = 832;
  config.height = 480;
  config.num_frames = 81;
  config.buckets = "on";
  const auto size_of = [&](const ClipInfo& clip) {
    const SizeChoice choice = choose_size(clip, config);
    INFO(choice.reason);
    REQUIRE(choice.size);
    return fmt::format("{}x{}x{}", choice.size->frames, choice.size->width, choice.size->height);
  };
  CHECK(size_of({81, 832, 480, false}) == "81x832x480");
  CHECK(size_of({300, 1920, 1080, false}) == "81x832x480");
  CHECK(size_of({300, 1080, 1920, false}) == "81x480x832");
  CHECK(size_of({80, 1000, 1000, false}) == "77x576x576");
  CHECK(size_of({3, 1000, 1000, false}) == "1x576x576");
  CHECK(size_of({1, 4000, 3000, true}) == "1x768x512");
  CHECK(size_of({1, 9000, 1000, true}) == "1x1216x320");
  CHECK_FALSE(choose_size({81, 400, 300, false}, config).size);
  CHECK_THAT(choose_size({81, 400, 300, false}, config).reason,
             Contains("is too small: 400x300 pixels for 768x512"));
  for (const auto& [width, height] :
       {std::pair{832, 480}, {512, 512}, {48, 32}, {16, 16}, {1280, 720}, {256, 16}}) {
    const int step = width * height < 512 * 512 ? 16 : 64;
    for (const ClipSize& size : bucket_sizes(width, height)) {
      INFO(width << "x" << height << ": " << size.width << "x" << size.height);
      const bool itself = size.width * size.height == width * height;
      CHECK((itself || (size.width % step == 0 && size.height % step == 0)));
      CHECK(size.width % 16 == 0);
      CHECK(size.width * size.height <= width * height);
      CHECK((itself || (size.width <= 4 * size.height && size.height <= 4 * size.width)));
    }
  }
}

TEST_CASE("a folder in buckets", "[training]") {
  if (no_clips()) return;
  const Scratch scratch;
  write_clip(scratch / "a.mp4", 7, 48, 32);
  write_clip(scratch / "b.mp4", 12, 64, 96);
  write_picture(scratch / "c.png", 100, 100);
  DataConfig config = small(9);
  config.buckets = "on";
  const auto data = open_folder(scratch.path(), config, {.caption = "x"});
  CHECK(summary(*data) ==
        "a.mp4 \"x\" x1 5x32x48\n"
        "b.mp4 \"x\" x1 9x48x32\n"
        "c.png \"x\" x1 1x32x32\n");
  CHECK(data->frames(1).sizes() == at::IntArrayRef{1, 3, 9, 48, 32});
}

}  // namespace frameshard
