// What a config struct's field list may say about a field besides its name, value and help text.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

namespace frameshard {

/// A value, or the YAML word `auto`: the program chooses.
template <class T>
struct AutoOr {
  std::optional<T> value;  ///< empty: auto

  bool is_auto() const { return !value.has_value(); }
  bool operator==(const AutoOr&) const = default;
};

// Each rule has describe(), for help and messages, and complaint(value): empty when the value is fine, else
// what is wrong with it ("must be ..., got ...").

/// Whole numbers from `low` to `high`, of the form `step` * k + `offset`.
struct IntRange {
  int64_t low = 0;
  int64_t high = 0;
  int64_t step = 1;
  int64_t offset = 0;

  IntRange multiple_of(int64_t n) const { return {low, high, n, 0}; }
  IntRange one_plus_multiple_of(int64_t n) const { return {low, high, n, 1}; }
  std::string describe() const;
  std::string complaint(int64_t value) const;
};

/// Numbers from `low` to `high`; never NaN or infinite.
struct RealRange {
  double low = 0;
  double high = 0;
  bool without_low = false;

  /// Leaves out the lower end.
  RealRange excluding_low() const { return {low, high, true}; }
  std::string describe() const;
  std::string complaint(double value) const;
};

/// One of a few words.
struct Choices {
  std::vector<std::string> words;

  std::string describe() const;
  std::string complaint(const std::string& value) const;
};

/// A text of at least one character.
struct NonEmpty {
  std::string describe() const { return "not empty"; }
  std::string complaint(const std::string& value) const { return value.empty() ? "must not be empty" : ""; }
};

/// Empty, or a name that can be a directory: letters, digits, dot, underscore and minus.
struct DirectoryName {
  std::size_t longest = 100;
  std::vector<std::string> taken;  ///< names that mean something else there

  std::string describe() const;
  std::string complaint(const std::string& value) const;
};

/// `otherwise`, cpu, cuda, or cuda:<number>.
struct DeviceWord {
  std::string otherwise = "auto";

  std::string describe() const { return otherwise + ", cpu, cuda or cuda:<number>"; }
  std::string complaint(const std::string& value) const;
};

/// The field must be written in the file or given by an override.
struct Required {
  std::string describe() const { return "required"; }
};
/// The same, or another field of its struct in its place.
struct RequiredUnless {
  std::string other;
  std::string describe() const { return "required, or " + other; }
};

/// One key of a config struct, for help and documentation.
struct KeyInfo {
  std::string key;            ///< dotted
  std::string type;           ///< "an integer", "auto or an integer", ...
  std::string limits;         ///< "between 1 and 1000", or empty
  std::string default_value;  ///< as YAML
  std::string help;
};

template <std::integral Low, std::integral High>
constexpr IntRange in_range(Low low, High high) {
  return {low, high};
}
template <std::floating_point Real>
constexpr RealRange in_range(Real low, Real high) {
  return {low, high};
}
inline Choices one_of(std::initializer_list<const char*> words) {
  return {{words.begin(), words.end()}};
}
inline NonEmpty non_empty() {
  return {};
}
inline DirectoryName directory_name(std::size_t longest, std::initializer_list<const char*> taken) {
  return {longest, {taken.begin(), taken.end()}};
}
inline DeviceWord device_word() {
  return {};
}
inline DeviceWord place_word() {
  return {"default"};
}
inline Required required() {
  return {};
}
inline RequiredUnless required_unless(std::string other) {
  return {std::move(other)};
}

}  // namespace frameshard
