// The machinery behind config structs: what a field can be, how one value is read and written.
// fields_read.h parses, overrides and checks; fields_write.h dumps, flattens and lists.
//
// A config struct has `template <class Visitor, class Self> static void fields(Visitor&, Self&)`, which calls
// visit("key", self.key, "help", rules...) for each field. Fields are std::string, int64_t, double, bool,
// AutoOr of these, std::optional of these or of a struct, structs, and std::vector (empty by default) of
// single values or structs. Include this from .cpp files only; config structs themselves need
// core/field_rules.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/field_rules.h"
#include "core/yaml_tree.h"

namespace frameshard {

/// Stands for every visitor, to ask whether a type has a field list.
struct AnyVisitor {
  template <class... Args>
  void operator()(Args&&...) {}
};
/// A type with a field list.
template <class T>
concept Struct = requires(AnyVisitor& visit, T& value) {
  T::fields(visit, value);
};

/// Which of the shapes above a field's type has.
template <class T, template <class> class Of>
inline constexpr bool is_a = false;
template <class T, template <class> class Of>
inline constexpr bool is_a<Of<T>, Of> = true;
template <class T>
inline constexpr bool is_optional = is_a<T, std::optional>;
template <class T>
inline constexpr bool is_auto_or = is_a<T, AutoOr>;
template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;
template <class T>
inline constexpr bool is_optional_struct = false;
template <Struct T>
inline constexpr bool is_optional_struct<std::optional<T>> = true;

/// Where each value that was given came from; what is not here has its default.
class Origins {
 public:
  explicit Origins(Location whole = {}) : whole_(std::move(whole)) {}

  bool given(const std::string& path) const { return places_.contains(path); }
  /// The place of a value that was given.
  const Location& place(const std::string& path) const { return places_.at(path); }
  void set(const std::string& path, const Location& place) {
    if (!path.empty()) places_[path] = place;
  }
  /// The same for another value that is a copy: its own place, and those of all below it.
  void copy(const std::string& from, const std::string& to);
  /// Forgets what lies below a path whose value was replaced.
  void forget_below(const std::string& path);
  /// The place of the value or of what holds it, as text.
  std::string where(std::string path) const;

 private:
  Location whole_;
  std::map<std::string, Location> places_;
};

/// An override "a.b=value", taken apart.
struct Assignment {
  std::vector<std::string> keys;
  std::string value;
  Location label;  ///< "override a.b=value"
};

/// Takes an override apart. Throws ExitCode::usage when it has not the form a.b=value.
Assignment split_assignment(const std::string& text);
/// "parent.key", or the key alone at the top.
std::string join_path(const std::string& parent, std::string_view key);
/// The element of a list that an override's key names.
std::size_t list_index(const Assignment& assignment, const std::string& key, const std::string& path,
                       std::size_t size);
/// Throws for a value of another type than wanted.
[[noreturn]] void fail_type(const YamlNode& node, const std::string& path, const std::string& wanted);
/// Throws with what was probably meant: one of the known keys, or a dotted key further down.
[[noreturn]] void fail_unknown_key(const Location& where, std::string_view key, const std::string& parent,
                                   std::span<const std::string> known, std::span<const std::string> deeper);

/// Reads a single value; false when the node is of another type.
bool read_leaf(const YamlNode& node, std::string& value);
bool read_leaf(const YamlNode& node, int64_t& value);
bool read_leaf(const YamlNode& node, double& value);
bool read_leaf(const YamlNode& node, bool& value);
/// A single value as YAML that reads back to the same.
std::string leaf_text(const std::string& value);
std::string leaf_text(int64_t value);
std::string leaf_text(double value);
std::string leaf_text(bool value);
/// True for the word `auto` without quotes.
bool is_auto_word(const YamlNode& node);

template <class T>
bool read_leaf(const YamlNode& node, AutoOr<T>& value) {
  static_assert(!std::is_same_v<T, std::string>, "the word auto and the text \"auto\" would look alike");
  if (is_auto_word(node)) {
    value.value.reset();
    return true;
  }
  return read_leaf(node, value.value.emplace());
}

template <class T>
bool read_leaf(const YamlNode& node, std::optional<T>& value) {
  if (node.kind == YamlNode::Kind::null) {
    value.reset();
    return true;
  }
  return read_leaf(node, value.emplace());
}

template <class T>
std::string leaf_text(const AutoOr<T>& value) {
  return value.value ? leaf_text(*value.value) : "auto";
}

template <class T>
std::string leaf_text(const std::optional<T>& value) {
  return value ? leaf_text(*value) : "null";
}

/// The type in words, as messages and help say it.
template <class T>
std::string type_words() {
  if constexpr (std::is_same_v<T, std::string>)
    return "a string";
  else if constexpr (std::is_same_v<T, int64_t>)
    return "an integer";
  else if constexpr (std::is_same_v<T, double>)
    return "a number";
  else if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (is_vector<T>)
    return "a list";
  else if constexpr (is_auto_or<T>)
    return "auto or " + type_words<typename decltype(T::value)::value_type>();
  else if constexpr (is_optional<T>)
    return type_words<typename T::value_type>() + " or null";
  else
    return "a mapping";
}

}  // namespace frameshard
