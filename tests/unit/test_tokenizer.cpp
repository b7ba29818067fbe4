// Expected ids were produced by transformers 5.17 (T5Tokenizer) from the same folders.
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "core/error.h"
#include "core/io/tokenizer.h"
#include "tests/support/catch.h"

namespace {

namespace fs = std::filesystem;
using frameshard::ExitCode;
using frameshard::Tokenizer;
using Ids = std::vector<int64_t>;

const fs::path kShapes = fs::path(FRAMESHARD_SOURCE_DIR) / "examples" / "shapes" / "tokenizer";

void check_refused(const fs::path& folder, ExitCode code, const std::string& text) {
  try {
    const Tokenizer tokenizer(folder);
    FAIL("the folder was taken");
  } catch (const frameshard::Error& error) {
    CAPTURE(error.what());
    CHECK(error.code() == code);
    CHECK(std::string(error.what()).find(text) != std::string::npos);
  }
}

}  // namespace

#ifdef FRAMESHARD_HAVE_SENTENCEPIECE

namespace {

/// A tokenizer folder of its own, removed at the end.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "tokenizer-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const fs::path& path() const { return path_; }
  void copy(const std::string& name) const { fs::copy_file(kShapes / name, path_ / name); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path_ / name) << text; }

 private:
  fs::path path_;
};

/// The ids without the padding.
Ids ids_of(const Tokenizer& tokenizer, const std::string& text) {
  frameshard::TokenIds tokens = tokenizer.encode(text, 64);
  REQUIRE(tokens.ids.size() == 64);
  const auto end = tokens.ids.begin() + tokens.length;
  CHECK(Ids(end, tokens.ids.end()) == Ids(64 - static_cast<std::size_t>(tokens.length), 0));
  return {tokens.ids.begin(), end};
}

void check(const Tokenizer& tokenizer, const std::vector<std::pair<std::string, Ids>>& cases) {
  for (const auto& [text, ids] : cases) {
    CAPTURE(text);
    CHECK(ids_of(tokenizer, text) == ids);
  }
}

}  // namespace

TEST_CASE("Tokenizer gives the reference's ids", "[tokenizer]") {
  check(Tokenizer(kShapes),
        {{"", {1}},
         {"a red circle moves left to right", {259, 260, 295, 285, 283, 262, 260, 274, 272, 268, 262, 276,
                                               260, 277, 308, 288, 299, 272, 287, 269, 275, 288, 1}},
         {"A Red CIRCLE", {260, 2, 260, 2, 262, 285, 260, 2, 1}},
         {"a\u2581red", {259, 260, 295, 285, 1}}});
}

TEST_CASE("Tokenizer joins unknown characters into one <unk> for each run", "[tokenizer]") {
  check(Tokenizer(kShapes), {{"caf\u00e9 \U0001f600\U0001f600 x", {284, 267, 308, 2, 260, 2, 260, 2, 1}},
                             {"\u0410\u0411 a", {260, 2, 259, 1}},
                             {"\ud55c\uad6d", {260, 2, 1}}});
}

TEST_CASE("Tokenizer takes special tokens written in a prompt", "[tokenizer]") {
  check(Tokenizer(kShapes), {{"</s>", {1, 1}},
                             {"<pad>", {0, 1}},
                             {"</S>", {260, 2, 1}},
                             {"a circle</s>red  <unk> x", {259, 283, 262, 1, 260, 295, 285, 2, 260, 2, 1}},
                             {"<0x41> x", {260, 68, 260, 2, 1}},
                             {"<extra_id_0>", {260, 2, 262, 2, 288, 271, 267, 2, 263, 285, 2, 1}}});
}

TEST_CASE("Tokenizer normalises by grapheme cluster", "[tokenizer]") {
  check(Tokenizer(kShapes), {{"\ufb01sh", {260, 308, 263, 276, 275, 1}},
                             {"\ufb01\u0301", {260, 308, 263, 1}},
                             {"red\u200bred", {260, 295, 285, 260, 295, 285, 1}}});
}

TEST_CASE("Tokenizer cuts to max_length and keeps </s>", "[tokenizer]") {
  const Tokenizer tokenizer(kShapes);
  const frameshard::TokenIds cut = tokenizer.encode("red red red red red red", 6);
  CHECK(cut.ids == Ids{260, 295, 285, 260, 295, 1});
  CHECK(cut.length == 6);
  CHECK(tokenizer.encode("red", 4).ids == Ids{260, 295, 285, 1});
  CHECK(tokenizer.encode("red", 5).ids == Ids{260, 295, 285, 1, 0});
  CHECK(tokenizer.encode("red", 1).ids == Ids{1});
  CHECK_THROWS_AS(tokenizer.encode("red", 0), frameshard::Error);
}

TEST_CASE("Tokenizer works from spiece.model alone", "[tokenizer]") {
  const Folder folder;
  folder.copy("spiece.model");
  check(Tokenizer(folder.path()),
        {{"a circle</s>red  <unk> x", {259, 283, 262, 1, 260, 295, 285, 2, 260, 2, 1}},
         {"\ufb01", {260, 308, 263, 1}}});
}

TEST_CASE("Tokenizer reads added tokens from tokenizer_config.json", "[tokenizer]") {
  const Folder folder;
  folder.copy("spiece.model");
  folder.write("tokenizer_config.json",
               R"({"added_tokens_decoder": {"314": {"content": "<tok>", "lstrip": true, "special": true}},
                   "additional_special_tokens": ["<0x41>", "<unheard_of>"]})");
  check(Tokenizer(folder.path()), {{"a <tok> b", {259, 314, 290, 1}}, {"a<0x41>b", {259, 68, 290, 1}}});
}

TEST_CASE("Tokenizer normalises only where tokenizer.json says so", "[tokenizer]") {
  const Folder folder;
  folder.copy("spiece.model");
  folder.write("tokenizer.json", R"({"added_tokens": [], "normalizer": null})");
  check(Tokenizer(folder.path()), {{"\ufb01", {260, 2, 1}}, {"</s>", {1, 1}}});
}

TEST_CASE("Tokenizer says which file is missing or broken", "[tokenizer]") {
  const Folder folder;
  check_refused(folder.path(), ExitCode::missing_file, (folder.path() / "spiece.model").string());
  folder.write("spiece.model", "not a model");
  check_refused(folder.path(), ExitCode::bad_data, "spiece.model");
  fs::remove(folder.path() / "spiece.model");
  folder.copy("spiece.model");
  folder.write("tokenizer.json", "{\"added_tokens\": [");
  check_refused(folder.path(), ExitCode::bad_data, "tokenizer.json");
  folder.write("tokenizer.json", R"({"added_tokens": [{"id": "x"}]})");
  check_refused(folder.path(), ExitCode::bad_data, "token lists");
  folder.write("tokenizer.json", R"({"added_tokens": [{"id": 9, "content": "x", "single_word": true}]})");
  check_refused(folder.path(), ExitCode::bad_data, "single_word");
}

TEST_CASE("Tokenizer refuses a model file that is cut short", "[tokenizer]") {
  const Folder folder;
  std::ifstream in(kShapes / "spiece.model", std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  folder.write("spiece.model", bytes.substr(0, bytes.size() / 2));
  check_refused(folder.path(), ExitCode::bad_data, "spiece.model");
}

#else

TEST_CASE("Tokenizer asks for sentencepiece where it was built without", "[tokenizer]") {
  check_refused(kShapes, ExitCode::config, "libsentencepiece-dev");
}

#endif
