#include "core/field_rules.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include <fmt/ranges.h>

#include "core/text.h"

namespace frameshard {

std::string IntRange::describe() const {
  const std::string form = step == 1     ? ""
                           : offset == 0 ? fmt::format("a multiple of {} ", step)
                                         : fmt::format("{}k+{} ", step, offset);
  return fmt::format("{}between {} and {}", form, low, high);
}

std::string IntRange::complaint(int64_t value) const {
  const auto fits = [this](int64_t v) { return v >= low && v <= high && (v - offset) % step == 0; };
  if (fits(value)) return "";
  std::string text = fmt::format("must be {}, got {}", describe(), value);
  if (step == 1) return text;
  int64_t below = std::clamp(value, low, high), above = below;
  while (below >= low && !fits(below)) --below;
  while (above <= high && !fits(above)) ++above;
  if (below < low || above > high || below == above) {
    return text + fmt::format("; the nearest is {}", below < low ? above : below);
  }
  return text + fmt::format("; the nearest are {} and {}", below, above);
}

std::string RealRange::describe() const {
  return without_low ? fmt::format("above {} and at most {}", low, high)
                     : fmt::format("between {} and {}", low, high);
}

std::string RealRange::complaint(double value) const {
  const bool fits = (without_low ? value > low : value >= low) && value <= high;
  return fits ? "" : fmt::format("must be {}, got {}", describe(), value);
}

std::string Choices::describe() const {
  return fmt::format("one of {}", fmt::join(words, ", "));
}

std::string Choices::complaint(const std::string& value) const {
  if (std::find(words.begin(), words.end(), value) != words.end()) return "";
  const std::string meant = closest_word(value, words);
  return fmt::format("must be {}, got {}{}", describe(), quote_for_message(value),
                     meant.empty() ? "" : fmt::format("; did you mean \"{}\"?", meant));
}

std::string DirectoryName::describe() const {
  return fmt::format("at most {} of the characters A-Z a-z 0-9 . _ -", longest);
}

std::string DirectoryName::complaint(const std::string& value) const {
  const bool simple = std::all_of(value.begin(), value.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) || c == '.' || c == '_' || c == '-');
  });
  const bool reserved =
      value == "." || value == ".." || std::find(taken.begin(), taken.end(), value) != taken.end();
  if (simple && !reserved && value.size() <= longest) return "";
  return fmt::format("must be a directory name of {}, got {}{}", describe(), quote_for_message(value),
                     reserved ? ", which means something else" : "");
}

std::string DeviceWord::complaint(const std::string& value) const {
  const std::string_view number = value.starts_with("cuda:") ? std::string_view(value).substr(5) : "";
  const bool counted = !number.empty() && number.size() <= 3 &&
                       std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (value == otherwise || value == "cpu" || value == "cuda" || counted) return "";
  return fmt::format("must be {}, got {}", describe(), quote_for_message(value));
}

}  // namespace frameshard
