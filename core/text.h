// Small helpers for texts that people write: is it UTF-8, how to show it, what was it meant to be.
#pragma once

#include <algorithm>
#include <cctype>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

namespace frameshard {

/// The length of the longest prefix that is valid UTF-8 and free of NUL: the whole size when all is well.
inline std::size_t valid_text_prefix(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  std::size_t i = 0;
  while (i < text.size()) {
    const unsigned first = byte(i);
    if (first == 0) return i;
    const std::size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (length == 0 || first > 0xF4) return i;
    for (std::size_t k = 1; k < length; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return i;
    }
    const unsigned second = byte(i + 1);  // overlong forms, surrogates and what lies above U+10FFFF
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
        (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) {
      return i;
    }
    i += length;
  }
  return i;
}

/// Somebody's text on one line of a log: at most `longest` bytes of it, control characters escaped (also
/// those of two bytes, U+0080 to U+009F), so that it cannot look like a line of ours or steer the terminal.
/// "..." marks what is left out: from `longest` or the first invalid byte on.
inline std::string one_line(std::string_view text, std::size_t longest = 200) {
  std::string_view shown = text.substr(0, longest);
  // Invalid bytes end the shown part too, and with them a character cut by the limit.
  shown = shown.substr(0, valid_text_prefix(shown));
  std::string out;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    const auto code = static_cast<unsigned char>(shown[i]);
    const bool of_two_bytes = code == 0xC2 && static_cast<unsigned char>(shown[i + 1]) < 0xA0;
    if (code == '\n') {
      out += "\\n";
    } else if (code < 0x20 || code == 0x7F) {
      out += fmt::format("\\x{:02x}", code);
    } else if (of_two_bytes) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(shown[++i]));
    } else {
      out += shown[i];
    }
  }
  return out + (shown.size() < text.size() ? "..." : "");
}

/// A text in double quotes for a message: shortened, control characters escaped.
inline std::string quote_for_message(std::string_view text) {
  constexpr std::size_t longest = 80;
  return fmt::format("\"{}\"", one_line(text, longest));
}

/// Edits between two words: insertions, deletions, replacements and swaps of neighbours, case ignored.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  const auto same = [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) == std::tolower(static_cast<unsigned char>(y));
  };
  std::vector<std::size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = above[j - 1] + (same(a[i - 1], b[j - 1]) ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1])) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before.swap(above);
    above.swap(row);
  }
  return above[b.size()];
}

/// The known word that was most likely meant, or an empty text: a near miss, else the only one that holds it.
inline std::string closest_word(std::string_view word, std::span<const std::string> known) {
  constexpr std::size_t longest = 64;  // no key is as long; keeps the search cheap
  if (word.empty() || word.size() > longest) return "";
  std::string best;
  std::size_t least = std::max<std::size_t>(1, word.size() / 3) + 1;
  std::vector<std::string> holding;
  for (const std::string& candidate : known) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < least && distance < candidate.size()) {
      least = distance;
      best = candidate;
    }
    if (word.size() >= 3 && candidate.find(word) != std::string::npos) holding.push_back(candidate);
  }
  if (best.empty() && holding.size() == 1) best = holding.front();
  return best;
}

}  // namespace frameshard
