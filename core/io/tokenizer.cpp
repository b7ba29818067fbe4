// What the reference does and sentencepiece does not, found by experiment with transformers 5.17 and
// tokenizers 0.23 (tests/peer/test_tokenizer.py compares the two):
//  - the normaliser looks at grapheme clusters, not at the longest match in the text (class Charsmap);
//  - every piece can match, the byte pieces too: "<0x41>" written in a prompt is that piece's id;
//  - bytes that no piece covers are no byte pieces, but one <unk> for each run of such characters;
//  - scores are added up in double precision, which decides between nearly equal segmentations;
//  - words are segmented on their own, each with its own U+2581 in front.
#include "core/io/tokenizer.h"

#include "core/error.h"

#ifdef FRAMESHARD_HAVE_SENTENCEPIECE

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include <nlohmann/json.hpp>
#include <sentencepiece_processor.h>

#include "core/io/grapheme_breaks.inc"

namespace frameshard {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t kPadId = 0;
constexpr int64_t kEosId = 1;
constexpr int64_t kUnkId = 2;
constexpr double kUnkPenalty = 10.0;                    // below the worst score of the vocabulary
constexpr std::string_view kWordMark = "\xE2\x96\x81";  // U+2581, stands for the space before a word
constexpr std::size_t kShortCluster = 6;                // bytes; longer clusters are normalised by code point

// ---- UTF-8 and character classes ----------------------------------------------------------------------

/// Bytes of the code point at `at`; never past the end, also where the text is not UTF-8.
std::size_t char_size(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t size = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return std::min(size, text.size() - at);
}

char32_t code_point(std::string_view text, std::size_t at) {
  const std::size_t size = char_size(text, at);
  char32_t value = static_cast<unsigned char>(text[at]);
  if (size > 1) value &= 0x7Fu >> size;
  for (std::size_t i = 1; i < size; ++i)
    value = (value << 6) | (static_cast<unsigned char>(text[at + i]) & 0x3Fu);
  return value;
}

template <std::size_t N>
bool contains(const CodePointRange (&ranges)[N], char32_t c) {
  const auto* range =
      std::lower_bound(std::begin(ranges), std::end(ranges), c,
                       [](const CodePointRange& r, char32_t value) { return r.last < value; });
  return range != std::end(ranges) && range->first <= c;
}

/// Unicode's White_Space, at which the reference splits words.
bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

constexpr char32_t kZeroWidthNonJoiner = 0x200C;
constexpr char32_t kZeroWidthJoiner = 0x200D;

/// Finds the ends of grapheme clusters, one code point after the other (UAX #29, the numbers are its rules).
///
/// The rules for Hangul syllables and flags are left out: they join only what is kShortCluster bytes or
/// longer, which is normalised by code point anyway.
class ClusterRules {
 public:
  /// Takes the next code point; whether it belongs to the cluster of those before it.
  bool joins(char32_t c);

 private:
  enum class Emoji { none, pictograph, joined };
  enum class Conjunct { none, consonant, linked };
  void remember(char32_t c, bool extend, bool linker);

  Emoji emoji_ = Emoji::none;
  Conjunct conjunct_ = Conjunct::none;
  char32_t before_ = 0;
};

bool ClusterRules::joins(char32_t c) {
  const bool linker = contains(kLinkers, c);
  const bool extend = linker || c == kZeroWidthNonJoiner || contains(kExtends, c);
  const bool pair = before_ == '\r' && c == '\n';                                   // GB3
  const bool apart = contains(kControls, before_) || contains(kControls, c);        // GB4, GB5
  const bool mark = extend || c == kZeroWidthJoiner || contains(kSpacingMarks, c);  // GB9, GB9a
  const bool prepended = contains(kPrepends, before_);                              // GB9b
  const bool conjunct = conjunct_ == Conjunct::linked && contains(kConsonants, c);  // GB9c
  const bool emoji = emoji_ == Emoji::joined && contains(kPictographs, c);          // GB11
  remember(c, extend, linker);
  return pair || (!apart && (mark || prepended || conjunct || emoji));
}

void ClusterRules::remember(char32_t c, bool extend, bool linker) {
  if (contains(kPictographs, c)) {
    emoji_ = Emoji::pictograph;
  } else if (c == kZeroWidthJoiner && emoji_ == Emoji::pictograph) {
    emoji_ = Emoji::joined;
  } else if (!extend || emoji_ == Emoji::joined) {
    emoji_ = Emoji::none;
  }
  if (contains(kConsonants, c)) {
    conjunct_ = Conjunct::consonant;
  } else if (linker && conjunct_ != Conjunct::none) {
    conjunct_ = Conjunct::linked;
  } else if (!(extend || c == kZeroWidthJoiner) || c == kZeroWidthNonJoiner) {
    conjunct_ = Conjunct::none;
  }
  before_ = c;
}

std::size_t cluster_size(std::string_view text) {
  ClusterRules rules;
  rules.joins(code_point(text, 0));
  std::size_t end = char_size(text, 0);
  while (end < text.size() && rules.joins(code_point(text, end))) end += char_size(text, end);
  return end;
}

// ---- normalisation ------------------------------------------------------------------------------------

/// sentencepiece's precompiled character map: four bytes with the size of a double-array trie, the trie, and
/// the replacements, each ended by a zero byte. Without data it maps nothing.
class Charsmap {
 public:
  Charsmap() = default;
  explicit Charsmap(std::string_view data);

  std::string normalize(std::string_view text) const;

 private:
  void append_cluster(std::string& out, std::string_view cluster) const;
  std::optional<std::string_view> replacement(std::string_view text) const;

  std::vector<uint32_t> trie_;
  std::string replacements_;
};

uint32_t little_endian(std::string_view bytes) {
  uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i)
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  return value;
}

Charsmap::Charsmap(std::string_view data) {
  if (data.empty()) return;
  const std::size_t size = data.size() < 4 ? data.size() : little_endian(data);
  if (data.size() < 4 || size > data.size() - 4) {
    fail(ExitCode::bad_data,
         "the tokenizer's character map is cut short at {} bytes; fetch the tokenizer again", data.size());
  }
  for (std::size_t at = 0; at + 4 <= size; at += 4) trie_.push_back(little_endian(data.substr(4 + at)));
  replacements_ = data.substr(4 + size);
}

/// The replacement of the shortest prefix of `text` that has one. It is the reference that takes the shortest
/// and then replaces all of `text` by it, so that U+FB01 U+0301 becomes "fi".
std::optional<std::string_view> Charsmap::replacement(std::string_view text) const {
  const auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); };
  if (trie_.empty()) return std::nullopt;
  std::size_t node = offset(trie_[0]);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    node ^= byte;
    if (byte == 0 || node >= trie_.size()) return std::nullopt;
    const uint32_t unit = trie_[node];
    if ((unit & ((1u << 31) | 0xFFu)) != byte) return std::nullopt;
    node ^= offset(unit);
    if (((unit >> 8) & 1u) == 0) continue;
    const std::size_t at = node < trie_.size() ? trie_[node] & 0x7FFFFFFFu : replacements_.size();
    if (at >= replacements_.size()) return std::nullopt;
    return std::string_view(replacements_.c_str() + at);
  }
  return std::nullopt;
}

void Charsmap::append_cluster(std::string& out, std::string_view cluster) const {
  if (cluster.size() < kShortCluster) {
    if (const auto whole = replacement(cluster)) {
      out += *whole;
      return;
    }
  }
  for (std::size_t at = 0; at < cluster.size();) {
    const std::string_view part = cluster.substr(at, char_size(cluster, at));
    out += replacement(part).value_or(part);
    at += part.size();
  }
}

std::string Charsmap::normalize(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::string_view cluster = text.substr(0, cluster_size(text));
    append_cluster(out, cluster);
    text.remove_prefix(cluster.size());
  }
  return out;
}

// ---- segmentation -------------------------------------------------------------------------------------

/// The pieces with their scores, and the search for the best segmentation of a word.
class Unigram {
 public:
  explicit Unigram(const sentencepiece::SentencePieceProcessor& model);

  std::optional<int64_t> find(std::string_view piece) const;
  void append_word(std::vector<int64_t>& ids, std::string_view word) const;

 private:
  struct Node {  // the best path that ends here
    double score = 0;
    std::size_t start = 0;
    int64_t id = kUnkId;
    bool reached = false;
  };
  static void offer(Node& node, double score, std::size_t start, int64_t id);
  void extend(std::vector<Node>& nodes, std::string_view word, std::size_t start) const;

  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> ids_;
  std::vector<double> scores_;
  double unk_score_ = 0;
  std::size_t longest_ = 0;  // bytes of the longest piece
};

Unigram::Unigram(const sentencepiece::SentencePieceProcessor& model) {
  double worst = std::numeric_limits<double>::infinity();
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    const std::string& piece = model.IdToPiece(id);
    ids_[piece] = id;
    scores_.push_back(model.GetScore(id));
    worst = std::min(worst, scores_.back());
    longest_ = std::max(longest_, piece.size());
  }
  unk_score_ = worst - kUnkPenalty;
}

std::optional<int64_t> Unigram::find(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? std::nullopt : std::optional<int64_t>(found->second);
}

void Unigram::offer(Node& node, double score, std::size_t start, int64_t id) {
  if (node.reached && score <= node.score) return;
  node = {score, start, id, true};
}

void Unigram::extend(std::vector<Node>& nodes, std::string_view word, std::size_t start) const {
  const double so_far = nodes[start].score;
  const std::size_t first = char_size(word, start);
  bool has_single = false;
  for (std::size_t size = first; start + size <= word.size() && size <= longest_;) {
    if (const auto id = find(word.substr(start, size))) {
      offer(nodes[start + size], scores_[static_cast<std::size_t>(*id)] + so_far, start, *id);
      has_single = has_single || size == first;
    }
    if (start + size == word.size()) break;
    size += char_size(word, start + size);
  }
  if (!has_single) offer(nodes[start + first], unk_score_ + so_far, start, kUnkId);
}

void Unigram::append_word(std::vector<int64_t>& ids, std::string_view word) const {
  std::vector<Node> nodes(word.size() + 1);
  for (std::size_t start = 0; start < word.size(); start += char_size(word, start))
    extend(nodes, word, start);
  const auto first = static_cast<std::ptrdiff_t>(ids.size());
  for (std::size_t end = word.size(); end > 0;) {
    std::size_t start = nodes[end].start;
    int64_t id = nodes[end].id;
    if (id == kUnkId) {
      while (start > 0 && nodes[start].id == kUnkId) start = nodes[start].start;
      id = find(word.substr(start, end - start)).value_or(kUnkId);
    }
    ids.push_back(id);
    end = start;
  }
  std::reverse(ids.begin() + first, ids.end());
}

// ---- special tokens -----------------------------------------------------------------------------------

/// A token that counts as one wherever it stands in a prompt.
struct AddedToken {
  std::string content;
  int64_t id;
  bool lstrip = false;      // takes the white space before it
  bool rstrip = false;      // takes the white space behind it
  bool normalized = false;  // looked for after normalisation
};

/// A part of a prompt: text, or an added token where `id` is set.
struct Segment {
  std::string_view text;
  std::optional<int64_t> id;
};

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

// ---- the files ----------------------------------------------------------------------------------------

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  if (!in.good() && !in.eof())
    fail(ExitCode::bad_data, "{} cannot be read; check its permissions", path.string());
  return bytes;
}

/// A JSON file of the folder without the vocabulary, which is large and read from spiece.model; null where
/// the file is not there.
json read_json(const fs::path& path) {
  if (!fs::exists(path)) return nullptr;
  const auto skip_model = [](int depth, json::parse_event_t event, json& parsed) {
    return !(depth == 1 && event == json::parse_event_t::key && parsed == "model");
  };
  try {
    json document = json::parse(read_file(path), skip_model);
    if (document.is_object()) return document;
  } catch (const json::exception& error) {
    fail(ExitCode::bad_data, "{} is not valid JSON ({}); fetch the tokenizer again", path.string(),
         error.what());
  }
  fail(ExitCode::bad_data, "{} does not hold a JSON object; fetch the tokenizer again", path.string());
}

/// One field of a protocol buffers message; numbers keep no text.
struct Field {
  uint64_t number;
  std::string_view text;
};

[[noreturn]] void bad_model() {
  fail(ExitCode::bad_data, "spiece.model ends within a field; fetch the tokenizer again");
}

uint64_t take_varint(std::string_view& message) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (message.empty()) bad_model();
    const auto byte = static_cast<unsigned char>(message.front());
    message.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7Fu) << shift;
    if (byte < 0x80) return value;
  }
  bad_model();
}

std::string_view take_bytes(std::string_view& message, uint64_t size) {
  if (size > message.size()) bad_model();
  const std::string_view bytes = message.substr(0, size);
  message.remove_prefix(size);
  return bytes;
}

Field take_field(std::string_view& message) {
  const uint64_t key = take_varint(message);
  switch (key & 7) {
    case 0:
      take_varint(message);
      return {key >> 3, {}};
    case 1:
      take_bytes(message, 8);
      return {key >> 3, {}};
    case 2:
      return {key >> 3, take_bytes(message, take_varint(message))};
    case 5:
      take_bytes(message, 4);
      return {key >> 3, {}};
    default:
      bad_model();
  }
}

/// The text of a message's field, empty where it has none.
std::string_view find_field(std::string_view message, uint64_t number) {
  while (!message.empty()) {
    const Field field = take_field(message);
    if (field.number == number) return field.text;
  }
  return {};
}

std::string decode_base64(std::string_view text) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t value = kDigits.find(c);
    if (value == std::string_view::npos) break;  // the padding
    bits = (bits << 6) | static_cast<uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out.push_back(static_cast<char>(static_cast<unsigned char>(bits >> count)));
  }
  return out;
}

/// The character map of tokenizer.json: of its Precompiled normaliser, alone or the first in a sequence. The
/// reference drops any other normaliser, and has none where this one is not there.
std::string json_charsmap(const json& tokenizer) {
  const json normalizer = tokenizer.value("normalizer", json());
  if (!normalizer.is_object()) return {};
  const bool sequence = normalizer.value("type", "") == "Sequence";
  for (const json& step : sequence ? normalizer.at("normalizers") : json::array({normalizer})) {
    if (step.value("type", "") == "Precompiled" && step.contains("precompiled_charsmap")) {
      return decode_base64(step.at("precompiled_charsmap").get_ref<const std::string&>());
    }
  }
  return {};
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

/// spiece.model, loaded; `bytes` gets the file itself.
std::unique_ptr<sentencepiece::SentencePieceProcessor> load_model(const fs::path& path, std::string& bytes) {
  if (!fs::is_regular_file(path)) {
    fail(ExitCode::missing_file, "the tokenizer's model {} is not there; the model folder needs it",
         path.string());
  }
  bytes = read_file(path);
  auto model = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const auto status = model->LoadFromSerializedProto(bytes);
  if (!status.ok()) {
    fail(ExitCode::bad_data, "{} is not a sentencepiece model ({}); fetch the tokenizer again", path.string(),
         status.ToString());
  }
  const bool is_t5 =
      model->PieceToId("<pad>") == kPadId && model->PieceToId("</s>") == kEosId && model->unk_id() == kUnkId;
  if (!is_t5) {
    fail(ExitCode::bad_data, "{} is no T5 tokenizer: ids 0, 1 and 2 are not <pad>, </s> and <unk>",
         path.string());
  }
  return model;
}

}  // namespace

// ---- Tokenizer ----------------------------------------------------------------------------------------

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
  std::string bytes;
  unigram = std::make_unique<Unigram>(*load_model(dir / "spiece.model", bytes));
  const json tokenizer = read_json(dir / "tokenizer.json");
  const json config = read_json(dir / "tokenizer_config.json");
  const json special_map = read_json(dir / "special_tokens_map.json");
  try {
    // Field 3 of the model is the normaliser, its field 2 the character map (sentencepiece_model.proto).
    charsmap = tokenizer.is_object() ? Charsmap(json_charsmap(tokenizer))
                                     : Charsmap(find_field(find_field(bytes, 3), 2));
    sort_tokens(AddedTokenReader(*unigram).read(tokenizer, config, special_map));
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

}  // namespace frameshard

#else

namespace frameshard {

struct Tokenizer::Impl {};

Tokenizer::Tokenizer(const std::filesystem::path& tokenizer_dir) {
  fail(
      ExitCode::config,
      "{} cannot be read: the engine was built without sentencepiece; install libsentencepiece-dev and build "
      "again",
      tokenizer_dir.string());
}

TokenIds Tokenizer::encode(std::string_view /*cleaned_text*/, int64_t /*max_length*/) const {
  fail(ExitCode::internal, "a tokenizer was used in an engine built without sentencepiece");
}

}  // namespace frameshard

#endif

namespace frameshard {

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

}  // namespace frameshard
