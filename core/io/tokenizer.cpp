// What the reference does and sentencepiece does not, found by experiment with transformers 5.17 and
// tokenizers 0.23 (tests/peer/test_tokenizer.py compares the two):
//  - the normaliser looks at grapheme clusters, not at the longest match in the text (charsmap.cpp);
//  - every piece can match, the byte pieces too: "<0x41>" written in a prompt is that piece's id;
//  - bytes that no piece covers are no byte pieces, but one <unk> for each run of such characters;
//  - scores are added up in double precision, which decides between nearly equal segmentations;
//  - words are segmented on their own, each with its own U+2581 in front.
#include "core/io/tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/tokenizer/added_tokens.h"
#include "core/io/tokenizer/charsmap.h"
#include "core/io/tokenizer/model_files.h"
#include "core/io/tokenizer/unigram.h"
#include "core/io/tokenizer/utf8.h"

namespace frameshard {

using namespace tokenizing;

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::string_view kWordMark = "\xE2\x96\x81";  // U+2581, stands for the space before a word

}  // namespace

struct Tokenizer::Impl {
  Charsmap charsmap;
  std::unique_ptr<Unigram> unigram;
  std::vector<AddedToken> raw_tokens;         // looked for in the prompt as it is
  std::vector<AddedToken> normalized_tokens;  // looked for in the normalised text between those

  explicit Impl(const fs::path& dir);
  void sort_tokens(std::vector<AddedToken> tokens);
  void append_text(std::vector<int64_t>& ids, std::string_view text) const;
  void append_words(std::vector<int64_t>& ids, std::string_view normalized) const;
  void append_marked(std::vector<int64_t>& ids, std::string word) const;
};

Tokenizer::Impl::Impl(const fs::path& dir) {
  const Model model = read_model(dir);
  unigram = std::make_unique<Unigram>(model.pieces);
  const json tokenizer = read_json(dir / "tokenizer.json");
  const json config = read_json(dir / "tokenizer_config.json");
  const json special_map = read_json(dir / "special_tokens_map.json");
  try {
    charsmap =
        tokenizer.is_object() ? Charsmap(json_charsmap(tokenizer)) : Charsmap(model_charsmap(model.bytes));
    sort_tokens(read_added_tokens(*unigram, tokenizer, config, special_map));
  } catch (const std::logic_error& error) {
    fail(ExitCode::bad_data, "the token lists in {} cannot be used ({}); fetch the tokenizer again",
         dir.string(), error.what());
  } catch (const json::exception& error) {
    fail(ExitCode::bad_data, "the token lists in {} cannot be used ({}); fetch the tokenizer again",
         dir.string(), error.what());
  }
}

void Tokenizer::Impl::sort_tokens(std::vector<AddedToken> tokens) {
  for (AddedToken& token : tokens) {
    if (token.normalized) token.content = charsmap.normalize(token.content);
    (token.normalized ? normalized_tokens : raw_tokens).push_back(std::move(token));
  }
}

/// One word, which starts a new part at every U+2581 and has one in front.
void Tokenizer::Impl::append_marked(std::vector<int64_t>& ids, std::string word) const {
  if (!word.starts_with(kWordMark)) word.insert(0, kWordMark);
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t next = std::min(word.find(kWordMark, at + kWordMark.size()), word.size());
    unigram->append_word(ids, std::string_view(word).substr(at, next - at));
    at = next;
  }
}

void Tokenizer::Impl::append_words(std::vector<int64_t>& ids, std::string_view normalized) const {
  std::string word;
  for (std::size_t at = 0; at < normalized.size(); at += char_size(normalized, at)) {
    if (!is_white_space(code_point(normalized, at))) {
      word.append(normalized, at, char_size(normalized, at));
    } else if (!word.empty()) {
      append_marked(ids, std::exchange(word, {}));
    }
  }
  if (!word.empty()) append_marked(ids, std::move(word));
}

void Tokenizer::Impl::append_text(std::vector<int64_t>& ids, std::string_view text) const {
  const std::string normalized = charsmap.normalize(text);
  for (const Segment& segment : split(normalized_tokens, normalized)) {
    if (segment.id) {
      ids.push_back(*segment.id);
    } else {
      append_words(ids, segment.text);
    }
  }
}

Tokenizer::Tokenizer(const fs::path& tokenizer_dir) : impl_(std::make_unique<Impl>(tokenizer_dir)) {}

TokenIds Tokenizer::encode(std::string_view cleaned_text, int64_t max_length) const {
  require(max_length >= 1, "a prompt of at most {} tokens has no room for </s>", max_length);
  std::vector<int64_t> ids;
  for (const Segment& segment : split(impl_->raw_tokens, cleaned_text)) {
    if (segment.id) {
      ids.push_back(*segment.id);
    } else {
      impl_->append_text(ids, segment.text);
    }
  }
  const auto room = static_cast<std::size_t>(max_length);
  ids.resize(std::min(ids.size(), room - 1));
  ids.push_back(kEosId);
  const auto length = static_cast<int64_t>(ids.size());
  ids.resize(room, kPadId);
  return {std::move(ids), length};
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

}  // namespace frameshard
