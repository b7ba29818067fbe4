#include "core/io/prompt_clean.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>

#include "html_entities.inc"

#include "core/error.h"
#include "core/io/tokenizer/utf8.h"

namespace frameshard {
namespace {

using tokenizing::is_white_space;

constexpr char32_t kReplacement = 0xFFFD;
constexpr std::size_t kMaxNameChars = 32;  // html.unescape looks at no more characters of a name

struct CodePoint {
  char32_t value;
  std::size_t size;  // bytes; 0 where the bytes are not UTF-8
};

/// Decodes the code point at `at`; overlong forms, surrogates and values above U+10FFFF are not UTF-8.
CodePoint decode(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || size > text.size() - at) return {0, 0};
  char32_t value = lead & (0x7Fu >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0u) != 0x80u) return {0, 0};
    value = (value << 6) | (byte(i) & 0x3Fu);
  }
  const bool overlong = (size == 3 && value < 0x800) || (size == 4 && value < 0x10000);
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (overlong || surrogate || value > 0x10FFFF) return {0, 0};
  return {value, size};
}

void check_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode(text, at);
    if (point.size == 0) {
      fail(ExitCode::config, "the prompt is not valid UTF-8 at byte {} (0x{:02x}); save it as UTF-8 text", at,
           static_cast<unsigned>(static_cast<unsigned char>(text[at])));
    }
    at += point.size;
  }
}

void append_utf8(std::string& out, char32_t value) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xC0 | (value >> 6));
    put(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    put(0xE0 | (value >> 12));
    put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  } else {
    put(0xF0 | (value >> 18));
    put(0x80 | ((value >> 12) & 0x3F));
    put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  }
}

/// What the reference drops at both ends, with `str.strip`: four separators more.
bool is_strippable(char32_t c) {
  return is_white_space(c) || (c >= 0x1C && c <= 0x1F);
}

/// HTML reads the C1 controls as windows-1252; its five unassigned bytes stay what they are.
char32_t windows_1252(char32_t c) {
  static constexpr std::array<char16_t, 32> kTable = {
      0x20AC, 0x0081, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160,
      0x2039, 0x0152, 0x008D, 0x017D, 0x008F, 0x0090, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
      0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x009D, 0x017E, 0x0178};
  return kTable[c - 0x80];
}

/// Numbers for which html.unescape writes nothing: control characters and noncharacters.
bool is_dropped(char32_t c) {
  if ((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F) return true;
  return (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
}

void append_number(std::string& out, char32_t value) {
  if (value >= 0x80 && value <= 0x9F) {
    append_utf8(out, windows_1252(value));
  } else if (value == 0 || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
    append_utf8(out, kReplacement);
  } else if (!is_dropped(value)) {
    append_utf8(out, value);
  }
}

/// The value of a digit in `base`, or -1.
int digit(char c, int base) {
  int value = -1;
  if (c >= '0' && c <= '9') value = c - '0';
  if (c >= 'a' && c <= 'f') value = c - 'a' + 10;
  if (c >= 'A' && c <= 'F') value = c - 'A' + 10;
  return value < base ? value : -1;
}

/// Resolves a numeric reference; `text` starts after "&". Returns the bytes used, 0 where it is none.
std::size_t append_numeric(std::string& out, std::string_view text) {
  const bool hexadecimal = text.size() > 1 && (text[1] == 'x' || text[1] == 'X');
  const int base = hexadecimal ? 16 : 10;
  const std::size_t first = hexadecimal ? 2 : 1;
  std::size_t end = first;
  char32_t value = 0;
  for (; end < text.size() && digit(text[end], base) >= 0; ++end) {
    // Any value above U+10FFFF means the same; keep it from overflowing.
    value = std::min<char32_t>(value * base + digit(text[end], base), 0x110000);
  }
  if (end == first) return 0;
  append_number(out, value);
  return end < text.size() && text[end] == ';' ? end + 1 : end;
}

const HtmlEntity* find_entity(std::string_view name) {
  const auto* found = std::lower_bound(
      std::begin(kHtmlEntities), std::end(kHtmlEntities), name,
      [](const HtmlEntity& entity, std::string_view wanted) { return entity.name < wanted; });
  return found != std::end(kHtmlEntities) && found->name == name ? found : nullptr;
}

/// The bytes of the name at the start of `text`, with the ';' where one follows.
std::size_t name_size(std::string_view text) {
  static constexpr std::string_view kEnds = "\t\n\f <&#;";
  std::size_t end = 0;
  for (std::size_t chars = 0; chars < kMaxNameChars && end < text.size(); ++chars) {
    if (kEnds.find(text[end]) != std::string_view::npos) break;
    end += decode(text, end).size;
  }
  return end > 0 && end < text.size() && text[end] == ';' ? end + 1 : end;
}

/// Resolves a named reference; `text` starts after "&". Returns the bytes used, 0 where it is none.
/// The whole name counts first, then its longest prefix of at least two characters, as HTML 5 asks for
/// the names that may lack their ';'.
std::size_t append_named(std::string& out, std::string_view text) {
  const std::size_t size = name_size(text);
  for (std::size_t length = size; length > 0; --length) {
    if (length == 1 && size > 1) break;
    if (const HtmlEntity* entity = find_entity(text.substr(0, length))) {
      out += entity->text;
      return length;
    }
  }
  return 0;
}

std::string unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    std::size_t used = 0;
    if (text[at] == '&' && at + 1 < text.size()) {
      const std::string_view rest = text.substr(at + 1);
      used = rest[0] == '#' ? append_numeric(out, rest) : append_named(out, rest);
    }
    if (used == 0) out.push_back(text[at]);
    at += 1 + used;
  }
  return out;
}

std::string_view strip(std::string_view text) {
  std::size_t first = text.size();
  std::size_t last = 0;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode(text, at);
    if (!is_strippable(point.value)) {
      first = std::min(first, at);
      last = at + point.size;
    }
    at += point.size;
  }
  return last == 0 ? std::string_view() : text.substr(first, last - first);
}

/// `text` neither begins nor ends with white space.
std::string fold_white_space(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool after_space = false;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode(text, at);
    const bool space = is_white_space(point.value);
    if (!space) {
      out.append(text, at, point.size);
    } else if (!after_space) {
      out.push_back(' ');
    }
    after_space = space;
    at += point.size;
  }
  return out;
}

}  // namespace

std::string clean_prompt(std::string_view utf8) {
  check_utf8(utf8);
  const std::string resolved = unescape(unescape(utf8));
  return fold_white_space(strip(resolved));
}

}  // namespace frameshard
