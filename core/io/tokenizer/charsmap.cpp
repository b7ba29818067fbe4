#include "core/io/tokenizer/charsmap.h"

#include <cstddef>

#include "core/error.h"
#include "core/io/tokenizer/grapheme.h"
#include "core/io/tokenizer/utf8.h"

namespace frameshard::tokenizing {
namespace {

constexpr std::size_t kShortCluster = 6;  // bytes; longer clusters are normalised by code point

uint32_t little_endian(std::string_view bytes) {
  uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i)
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  return value;
}

}  // namespace

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

}  // namespace frameshard::tokenizing
