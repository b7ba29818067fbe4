#include "core/fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/ranges.h>

#include "core/text.h"

namespace frameshard {
namespace {

std::size_t skip_digits(std::string_view text, std::size_t from) {
  while (from < text.size() && text[from] >= '0' && text[from] <= '9') ++from;
  return from;
}

std::string_view without_sign(std::string_view text) {
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) text.remove_prefix(1);
  return text;
}

bool is_integer_text(std::string_view text) {
  const std::string_view digits = without_sign(text);
  return !digits.empty() && skip_digits(digits, 0) == digits.size();
}

// Digits with at most one point and an exponent: what from_chars would take besides (inf, nan) is left out.
bool is_number_text(std::string_view text) {
  const std::string_view body = without_sign(text);
  const std::size_t whole = skip_digits(body, 0);
  std::size_t end = whole, digits = whole;
  if (end < body.size() && body[end] == '.') {
    end = skip_digits(body, whole + 1);
    digits += end - whole - 1;
  }
  if (digits == 0) return false;
  if (end < body.size() && (body[end] == 'e' || body[end] == 'E')) {
    return is_integer_text(body.substr(end + 1));
  }
  return end == body.size();
}

template <class Number>
bool read_number(std::string_view text, Number& value) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

bool plain_scalar(const YamlNode& node) {
  return node.kind == YamlNode::Kind::scalar && !node.quoted;
}

std::string node_words(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::null) return "null (an empty value)";
  if (node.kind == YamlNode::Kind::sequence) return "a list";
  if (node.kind == YamlNode::Kind::map) return "a mapping";
  return (node.quoted ? "the quoted text " : "") + quote_for_message(node.text);
}

// True for texts that every YAML reader takes as this same string without quotes.
bool safe_plain(std::string_view text) {
  const auto ascii_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (text.empty() || !(ascii_letter(text[0]) || text[0] == '/' || text[0] == '_')) return false;
  const bool simple = std::all_of(text.begin(), text.end(), [&](char c) {
    return ascii_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.' || c == '/';
  });
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  constexpr std::string_view other_meaning[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  return simple &&
         std::find(std::begin(other_meaning), std::end(other_meaning), lower) == std::end(other_meaning);
}

// C1 controls, line separators and the byte order mark: readers fold or drop them where they stand as they
// are.
bool needs_escape(unsigned code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029 || code == 0xFEFF ||
         code == 0xFFFE || code == 0xFFFF;
}

std::string double_quoted(std::string_view text) {
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const std::size_t length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    unsigned code = length == 1 ? first : first & (0xFFu >> (length + 1));
    for (std::size_t k = 1; k < length; ++k)
      code = code << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3Fu);
    if (code == '"' || code == '\\') {
      out += '\\';
      out += text[i];
    } else if (code == '\n') {
      out += "\\n";
    } else if (needs_escape(code)) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += text.substr(i, length);
    }
    i += length;
  }
  return out + '"';
}

}  // namespace

void Origins::copy(const std::string& from, const std::string& to) {
  std::map<std::string, Location> copies;
  for (auto it = places_.lower_bound(from); it != places_.end() && it->first.starts_with(from); ++it) {
    const std::string below = it->first.substr(from.size());
    if (below.empty() || below[0] == '.') copies.emplace(to + below, it->second);
  }
  places_.merge(copies);
}

void Origins::forget_below(const std::string& path) {
  const std::string prefix = path + ".";
  const auto first = places_.lower_bound(prefix);
  auto last = first;
  while (last != places_.end() && last->first.starts_with(prefix)) ++last;
  places_.erase(first, last);
}

std::string Origins::where(std::string path) const {
  for (;;) {
    if (const auto found = places_.find(path); found != places_.end()) return found->second.text();
    const std::size_t dot = path.rfind('.');
    if (dot == std::string::npos) return whole_.text();
    path.resize(dot);
  }
}

std::string join_path(const std::string& parent, std::string_view key) {
  return parent.empty() ? std::string(key) : fmt::format("{}.{}", parent, key);
}

Assignment split_assignment(const std::string& text) {
  Assignment out;
  const std::size_t equals = text.find('=');
  const std::string path = text.substr(0, equals);
  std::size_t start = 0;
  bool well_formed =
      equals != std::string::npos && !path.empty() && std::isalpha(static_cast<unsigned char>(path[0]));
  while (well_formed && start <= path.size()) {
    const std::size_t dot = std::min(path.find('.', start), path.size());
    out.keys.push_back(path.substr(start, dot - start));
    const std::string& key = out.keys.back();
    well_formed =
        !key.empty() && std::none_of(key.begin(), key.end(), [](unsigned char c) { return c <= ' '; });
    start = dot + 1;
  }
  if (!well_formed) {
    fail(ExitCode::usage, "{} is not an override; the form is key=value, such as request.width=256",
         quote_for_message(text));
  }
  out.value = text.substr(equals + 1);
  const std::string shown = quote_for_message(text);
  out.label.source = std::make_shared<const std::string>("override " + shown.substr(1, shown.size() - 2));
  if (valid_text_prefix(text) < text.size()) fail(ExitCode::config, "{}: not valid UTF-8", out.label.text());
  return out;
}

std::size_t list_index(const Assignment& assignment, const std::string& key, const std::string& path,
                       std::size_t size) {
  std::size_t index = 0;
  const bool digits = !key.empty() && skip_digits(key, 0) == key.size();
  if (!digits || !read_number(key, index)) {
    fail(ExitCode::config, "{}: {} is a list, its elements are named by number from 0 ({}.0), got {}",
         assignment.label.text(), path, path, quote_for_message(key));
  }
  if (size == 0) {
    fail(ExitCode::config, "{}: {} is not given, so that it has no number {}; give the list: {}=[...]",
         assignment.label.text(), path, key, path);
  }
  if (index >= size) {
    fail(ExitCode::config, "{}: {} has {} element{}, there is no number {} (the first is 0)",
         assignment.label.text(), path, size, size == 1 ? "" : "s", key);
  }
  return index;
}

void fail_type(const YamlNode& node, const std::string& path, const std::string& wanted) {
  std::string hint;
  if (node.kind == YamlNode::Kind::null && wanted.starts_with("a string")) {
    hint = "; write \"\" for an empty string, or put the word in quotes";
  } else if (node.kind == YamlNode::Kind::scalar && node.quoted) {
    hint = "; remove the quotes";
  } else if (wanted.find("integer") != std::string::npos && is_integer_text(node.text)) {
    hint = ", which does not fit in 64 bits";
  } else if (wanted.find("number") != std::string::npos && is_number_text(node.text)) {
    hint = ", which a double cannot hold";
  }
  fail(ExitCode::config, "{}: {} must be {}, got {}{}", node.location.text(),
       path.empty() ? "the top level" : path, wanted, node_words(node), hint);
}

void fail_unknown_key(const Location& where, std::string_view key, const std::string& parent,
                      std::span<const std::string> known, std::span<const std::string> deeper) {
  std::string meant = closest_word(key, known);
  for (const std::string& dotted : deeper) {
    if (meant.empty() && dotted.ends_with("." + std::string(key))) meant = dotted;
  }
  std::string hint = meant.empty() ? "" : fmt::format(" did you mean \"{}\"?", meant);
  if (key.find(':') != std::string_view::npos) hint = " is a space missing after the colon?";
  fail(ExitCode::config, "{}: unknown key {} {};{} Known keys: {}", where.text(), quote_for_message(key),
       parent.empty() ? "at the top level" : "in " + parent, hint, fmt::join(known, ", "));
}

bool is_auto_word(const YamlNode& node) {
  return plain_scalar(node) && node.text == "auto";
}

bool read_leaf(const YamlNode& node, std::string& value) {
  value = node.text;
  return node.kind == YamlNode::Kind::scalar;
}
bool read_leaf(const YamlNode& node, int64_t& value) {
  return plain_scalar(node) && is_integer_text(node.text) && read_number(node.text, value);
}
bool read_leaf(const YamlNode& node, double& value) {
  return plain_scalar(node) && is_number_text(node.text) && read_number(node.text, value);
}
bool read_leaf(const YamlNode& node, bool& value) {
  value = node.text == "true";
  return plain_scalar(node) && (value || node.text == "false");
}

std::string leaf_text(const std::string& value) {
  if (valid_text_prefix(value) < value.size()) {
    fail(ExitCode::config, "the text {} is not valid UTF-8", quote_for_message(value));
  }
  return safe_plain(value) ? value : double_quoted(value);
}
std::string leaf_text(int64_t value) {
  return std::to_string(value);
}
std::string leaf_text(bool value) {
  return value ? "true" : "false";
}

// The shortest digits that read back to the same number, with a point so that it stays a number with a point.
std::string leaf_text(double value) {
  std::string text = fmt::format("{}", value);
  if (!std::isfinite(value)) fail(ExitCode::config, "{} is not a finite number", text);
  if (text.find('.') == std::string::npos) text.insert(std::min(text.find('e'), text.size()), ".0");
  return text;
}

}  // namespace frameshard
