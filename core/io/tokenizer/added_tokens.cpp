#include "core/io/tokenizer/added_tokens.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/tokenizer/utf8.h"

namespace frameshard::tokenizing {
namespace {

using nlohmann::json;

std::size_t trim_right(std::string_view text) {
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const bool space = is_white_space(code_point(text, at));
    at += char_size(text, at);
    if (!space) end = at;
  }
  return end;
}

std::size_t white_space_size(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is_white_space(code_point(text, at))) at += char_size(text, at);
  return at;
}

/// The longest token at the start of `text`.
const AddedToken* match(const std::vector<AddedToken>& tokens, std::string_view text) {
  const AddedToken* best = nullptr;
  for (const AddedToken& token : tokens) {
    if (!token.content.empty() && text.starts_with(token.content) &&
        (best == nullptr || token.content.size() > best->content.size())) {
      best = &token;
    }
  }
  return best;
}

/// The folder's added tokens, each content once; the first file to name it decides.
class AddedTokenReader {
 public:
  explicit AddedTokenReader(const Unigram& unigram) : unigram_(unigram) {}

  std::vector<AddedToken> read(const json& tokenizer, const json& config, const json& special_map);

 private:
  void add(AddedToken token);
  void add_entry(const json& entry, int64_t id);
  void add_listed(const json& document);

  const Unigram& unigram_;
  std::vector<AddedToken> tokens_;
};

void AddedTokenReader::add(AddedToken token) {
  const auto same = [&](const AddedToken& other) { return other.content == token.content; };
  if (std::none_of(tokens_.begin(), tokens_.end(), same)) tokens_.push_back(std::move(token));
}

void AddedTokenReader::add_entry(const json& entry, int64_t id) {
  AddedToken token{entry.at("content"), id, entry.value("lstrip", false), entry.value("rstrip", false),
                   entry.value("normalized", false)};
  if (entry.value("single_word", false)) {
    fail(ExitCode::bad_data, "added token '{}' is single_word, which this engine does not do; clear the flag",
         token.content);
  }
  add(std::move(token));
}

/// Tokens given by name alone, which take the id of the piece of that name. A name without a piece gets an id
/// past the vocabulary in the reference, which no text encoder has a row for; it stays plain text here.
void AddedTokenReader::add_listed(const json& document) {
  for (const char* key : {"extra_special_tokens", "additional_special_tokens"}) {
    const json names = document.is_object() ? document.value(key, json()) : json();
    for (const json& entry : names.is_structured() ? names : json::array()) {
      const json content = entry.is_object() ? entry.value("content", json()) : entry;
      const auto id = content.is_string() ? unigram_.find(content.get<std::string>()) : std::nullopt;
      if (id) add_entry(entry.is_object() ? entry : json{{"content", content}}, *id);
    }
  }
}

std::vector<AddedToken> AddedTokenReader::read(const json& tokenizer, const json& config,
                                               const json& special_map) {
  if (tokenizer.is_object()) {
    for (const json& entry : tokenizer.value("added_tokens", json::array())) add_entry(entry, entry.at("id"));
  }
  if (config.is_object()) {
    const json decoder = config.value("added_tokens_decoder", json::object());
    for (const auto& [id, entry] : decoder.items()) add_entry(entry, std::stoll(id));
  }
  add({"<pad>", kPadId});
  add({"</s>", kEosId});
  add({"<unk>", kUnkId});
  add_listed(config);
  add_listed(special_map);
  return std::move(tokens_);
}

}  // namespace

std::vector<Segment> split(const std::vector<AddedToken>& tokens, std::string_view text) {
  std::vector<Segment> segments;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* token = match(tokens, text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    const std::size_t start = token->lstrip ? std::max(trim_right(text.substr(0, at)), done) : at;
    at += token->content.size();
    const std::size_t stop = token->rstrip ? at + white_space_size(text.substr(at)) : at;
    if (done < start) segments.push_back({text.substr(done, start - done), std::nullopt});
    segments.push_back({{}, token->id});
    done = stop;
  }
  if (done < text.size()) segments.push_back({text.substr(done), std::nullopt});
  return segments;
}

std::vector<AddedToken> read_added_tokens(const Unigram& unigram, const json& tokenizer, const json& config,
                                          const json& special_map) {
  return AddedTokenReader(unigram).read(tokenizer, config, special_map);
}

}  // namespace frameshard::tokenizing
