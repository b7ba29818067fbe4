#include "core/io/tokenizer/grapheme.h"

#include <algorithm>
#include <iterator>

#include "core/io/tokenizer/grapheme_breaks.inc"
#include "core/io/tokenizer/utf8.h"

namespace frameshard::tokenizing {
namespace {

template <std::size_t N>
bool contains(const CodePointRange (&ranges)[N], char32_t c) {
  const auto* range =
      std::lower_bound(std::begin(ranges), std::end(ranges), c,
                       [](const CodePointRange& r, char32_t value) { return r.last < value; });
  return range != std::end(ranges) && range->first <= c;
}

constexpr char32_t kZeroWidthNonJoiner = 0x200C;
constexpr char32_t kZeroWidthJoiner = 0x200D;

/// Finds the ends of grapheme clusters, one code point after the other (UAX #29, the numbers are its rules).
///
/// The rules for Hangul syllables and flags are left out: they join only what is 6 bytes or longer,
/// which is normalised by code point anyway (kShortCluster in charsmap.cpp).
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

}  // namespace

std::size_t cluster_size(std::string_view text) {
  ClusterRules rules;
  rules.joins(code_point(text, 0));
  std::size_t end = char_size(text, 0);
  while (end < text.size() && rules.joins(code_point(text, end))) end += char_size(text, end);
  return end;
}

}  // namespace frameshard::tokenizing
