// The normaliser of the tokeniser: a model's character map.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace frameshard::tokenizing {

/// sentencepiece's precompiled character map: four bytes with the size of a double-array trie, the trie, and
/// the replacements, each ended by a zero byte. Without data it maps nothing.
class Charsmap {
 public:
  Charsmap() = default;
  /// Fails with ExitCode::bad_data where `data` ends within the trie; empty `data` gives a map of nothing.
  explicit Charsmap(std::string_view data);

  /// `text` with every grapheme cluster, or else each of its code points, replaced where the map has it.
  std::string normalize(std::string_view text) const;

 private:
  void append_cluster(std::string& out, std::string_view cluster) const;
  std::optional<std::string_view> replacement(std::string_view text) const;

  std::vector<uint32_t> trie_;
  std::string replacements_;
};

}  // namespace frameshard::tokenizing
