// Writing config structs: as YAML, as flat pairs, and the list of their keys.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/fields.h"

namespace frameshard {

/// Appends "key: value" lines.
template <class T>
void dump_value(std::string& out, const std::string& key, const T& value, std::size_t indent);

/// Appends the lines of a struct's fields.
template <Struct T>
void dump_struct(std::string& out, const T& value, std::size_t indent) {
  const auto visit = [&](const char* key, const auto& field, const char*, const auto&...) {
    dump_value(out, key, field, indent);
  };
  T::fields(visit, value);
}

template <class T>
void dump_value(std::string& out, const std::string& key, const T& value, std::size_t indent) {
  const std::string head = std::string(indent, ' ') + key + ":";
  if constexpr (Struct<T>) {
    out += head + "\n";
    dump_struct(out, value, indent + 2);
  } else if constexpr (is_optional_struct<T>) {
    if (value) dump_value(out, key, *value, indent);
  } else if constexpr (is_vector<T>) {
    if (value.empty()) return;
    out += head + "\n";
    for (const auto& item : value) {
      const std::size_t start = out.size() + indent + 2;
      if constexpr (Struct<typename T::value_type>) {
        dump_struct(out, item, indent + 4);
        out[start] = '-';
      } else {
        out += std::string(indent + 2, ' ') + "- " + leaf_text(item) + "\n";
      }
    }
  } else {
    out += head + " " + leaf_text(value) + "\n";
  }
}

/// Appends the dotted key and text of each single value.
template <class T>
void flatten_value(const T& value, const std::string& path,
                   std::vector<std::pair<std::string, std::string>>& out) {
  if constexpr (Struct<T>) {
    const auto visit = [&](const char* key, const auto& field, const char*, const auto&...) {
      flatten_value(field, join_path(path, key), out);
    };
    T::fields(visit, value);
  } else if constexpr (is_optional_struct<T>) {
    if (value)
      flatten_value(*value, path, out);
    else
      out.emplace_back(path, "null");
  } else if constexpr (is_vector<T>) {
    if (value.empty()) out.emplace_back(path, "[]");
    for (std::size_t i = 0; i < value.size(); ++i) {
      flatten_value(value[i], join_path(path, std::to_string(i)), out);
    }
  } else {
    out.emplace_back(path, leaf_text(value));
  }
}

/// Appends the keys of a struct; a list is one key.
template <Struct T>
void list_keys(const T& defaults, const std::string& path, std::vector<KeyInfo>& out) {
  const auto visit = [&](const char* key, const auto& field, const char* help, const auto&... rules) {
    using Field = std::decay_t<decltype(field)>;
    const std::string at = join_path(path, key);
    if constexpr (Struct<Field>) {
      list_keys(field, at, out);
    } else if constexpr (is_optional_struct<Field>) {
      list_keys(typename Field::value_type{}, at, out);
    } else {
      std::string limits;
      ((limits += (limits.empty() ? "" : ", ") + rules.describe()), ...);
      std::string value = "[]";
      if constexpr (!is_vector<Field>) value = leaf_text(field);
      out.push_back({at, type_words<Field>(), limits, value, help});
    }
  };
  T::fields(visit, defaults);
}

}  // namespace frameshard
