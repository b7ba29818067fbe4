// Walking through UTF-8 by code point.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace frameshard::tokenizing {

/// Bytes of the code point at `at`; never past the end, also where the text is not UTF-8.
inline std::size_t char_size(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t size = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return std::min(size, text.size() - at);
}

/// The code point at `at`; some number where the text is not UTF-8.
inline char32_t code_point(std::string_view text, std::size_t at) {
  const std::size_t size = char_size(text, at);
  char32_t value = static_cast<unsigned char>(text[at]);
  if (size > 1) value &= 0x7Fu >> size;
  for (std::size_t i = 1; i < size; ++i)
    value = (value << 6) | (static_cast<unsigned char>(text[at + i]) & 0x3Fu);
  return value;
}

/// Unicode's White_Space, which is what `\s` of Python's regex module matches: the reference folds it in
/// prompts, and splits words at it.
inline bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace frameshard::tokenizing
