// Reading config structs: from a YAML tree, from overrides, and the check of every rule.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "core/fields.h"
#include "core/fields_write.h"

namespace frameshard {

/// The keys of a struct itself.
template <Struct T>
std::vector<std::string> key_names() {
  std::vector<std::string> names;
  const auto visit = [&](const char* key, const auto&...) { names.push_back(key); };
  const T value{};
  T::fields(visit, value);
  return names;
}

/// The dotted keys of all that a struct holds.
template <Struct T>
std::vector<std::string> dotted_keys() {
  std::vector<KeyInfo> keys;
  list_keys(T{}, "", keys);
  std::vector<std::string> names;
  for (const KeyInfo& key : keys) names.push_back(key.key);
  return names;
}

/// Reads a node into a value; keys that the node does not have keep what they hold.
template <class T>
void parse_value(const YamlNode& node, T& value, const std::string& path, Origins& origins);

template <Struct T>
void parse_struct(const YamlNode& node, T& value, const std::string& path, Origins& origins) {
  if (node.kind != YamlNode::Kind::map) fail_type(node, path, "a mapping");
  const auto known = key_names<T>();
  for (const auto& [key, unused] : node.entries) {
    if (std::find(known.begin(), known.end(), key.text) != known.end()) continue;
    fail_unknown_key(key.location, key.text, path, known, dotted_keys<T>());
  }
  const auto visit = [&](const char* key, auto& field, const char*, const auto&...) {
    if (const YamlNode* child = node.find(key)) parse_value(*child, field, join_path(path, key), origins);
  };
  T::fields(visit, value);
}

template <class T>
void parse_value(const YamlNode& node, T& value, const std::string& path, Origins& origins) {
  origins.set(path, node.location);
  if constexpr (Struct<T>) {
    parse_struct(node, value, path, origins);
  } else if constexpr (is_optional_struct<T>) {
    if (node.kind == YamlNode::Kind::null) {
      value.reset();
      origins.forget_below(path);
    } else {
      if (!value) value.emplace();
      parse_struct(node, *value, path, origins);
    }
  } else if constexpr (is_vector<T>) {
    origins.forget_below(path);
    if constexpr (!Struct<typename T::value_type>) {
      if (node.kind == YamlNode::Kind::scalar) {  // a list of one
        value.assign(1, {});
        return parse_value(node, value[0], join_path(path, "0"), origins);
      }
    }
    if (node.kind != YamlNode::Kind::sequence) fail_type(node, path, type_words<T>());
    value.assign(node.items.size(), {});
    for (std::size_t i = 0; i < value.size(); ++i) {
      parse_value(node.items[i], value[i], join_path(path, std::to_string(i)), origins);
    }
  } else if (!read_leaf(node, value)) {
    fail_type(node, path, type_words<T>());
  }
}

/// Gives a value what an override says. Texts are taken as they are, everything else is read as YAML.
template <class T>
void assign_value(T& value, const Assignment& assignment, const std::string& path, Origins& origins) {
  constexpr bool null_or_text = std::is_same_v<T, std::optional<std::string>>;
  YamlNode node;
  if (std::is_same_v<T, std::string> || (null_or_text && assignment.value != "null")) {
    node.kind = YamlNode::Kind::scalar;
    node.text = assignment.value;
    node.quoted = true;
    node.location = assignment.label;
  } else {
    node = parse_yaml_text(assignment.value, assignment.label.text(), Positions::hidden);
  }
  parse_value(node, value, path, origins);
}

/// Applies an override to a value that the first `depth` of its keys lead to.
template <class T>
void override_value(T& value, const Assignment& assignment, std::size_t depth, const std::string& path,
                    Origins& origins) {
  if (depth == assignment.keys.size()) return assign_value(value, assignment, path, origins);
  const std::string& key = assignment.keys[depth];
  const std::string below = join_path(path, key);
  if constexpr (Struct<T>) {
    bool found = false;
    const auto visit = [&](const char* name, auto& field, const char*, const auto&...) {
      if (key != name) return;
      found = true;
      override_value(field, assignment, depth + 1, below, origins);
    };
    T::fields(visit, value);
    if (!found) fail_unknown_key(assignment.label, key, path, key_names<T>(), dotted_keys<T>());
  } else if constexpr (is_optional_struct<T>) {
    if (!value) {
      value.emplace();
      origins.set(path, assignment.label);
    }
    override_value(*value, assignment, depth, path, origins);
  } else if constexpr (is_vector<T>) {
    override_value(value[list_index(assignment, key, path, value.size())], assignment, depth + 1, below,
                   origins);
  } else {
    fail(ExitCode::config, "{}: {} is {}, it has no key {}", assignment.label.text(), path, type_words<T>(),
         key);
  }
}

/// Gives `value` what was given for `shared` and not for `value` itself, key by key, with its place.
template <Struct T>
void inherit_value(T& value, const std::string& path, const T& shared, const std::string& shared_path,
                   Origins& origins) {
  const auto visit = [&](const char* key, auto& field, const char*, const auto&...) {
    const std::string own = join_path(path, key), other = join_path(shared_path, key);
    if (origins.given(own) || !origins.given(other)) return;
    const auto copy = [&](const char* name, const auto& from, const char*, const auto&...) {
      if constexpr (std::is_same_v<std::decay_t<decltype(from)>, std::decay_t<decltype(field)>>) {
        if (std::string_view(name) == key) field = from;
      }
    };
    T::fields(copy, shared);
    origins.copy(other, own);
  };
  T::fields(visit, value);
}

/// What is wrong with a value by one rule, or an empty text.
template <class T, class Rule>
std::string rule_complaint(const T& value, const Rule& rule, bool missing) {
  if constexpr (std::is_same_v<Rule, Required>) {
    return missing ? "must be given" : "";
  } else if constexpr (is_vector<T>) {
    std::string complaint;
    for (const auto& item : value) {
      if (complaint.empty()) complaint = rule_complaint(item, rule, missing);
    }
    return complaint;
  } else if constexpr (is_optional<T>) {
    return value ? rule_complaint(*value, rule, missing) : "";
  } else if constexpr (is_auto_or<T>) {
    return rule_complaint(value.value, rule, missing);
  } else {
    return rule.complaint(value);
  }
}

/// Throws for the first value that breaks a rule. Without origins (values set by code) nothing is required.
template <class T>
void check_value(const T& value, const std::string& path, const Origins* origins) {
  if constexpr (Struct<T>) {
    const auto visit = [&](const char* key, const auto& field, const char*, const auto&... rules) {
      const std::string at = join_path(path, key);
      const bool missing = origins && !origins->given(at);
      [[maybe_unused]] const auto complaint_of =
          [&](const auto& rule) -> std::string {  // a key may have no rules
        if constexpr (std::is_same_v<std::decay_t<decltype(rule)>, RequiredUnless>) {
          return missing && !origins->given(join_path(path, rule.other)) ? "must be given" : "";
        } else {
          return rule_complaint(field, rule, missing);
        }
      };
      const std::initializer_list<std::string> complaints = {complaint_of(rules)...};
      for (const std::string& complaint : complaints) {
        if (complaint.empty()) continue;
        fail(ExitCode::config, "{}{} {}", origins ? origins->where(at) + ": " : "", at, complaint);
      }
      check_value(field, at, origins);
    };
    T::fields(visit, value);
  } else if constexpr (is_optional_struct<T>) {
    if (value) check_value(*value, path, origins);
  } else if constexpr (is_vector<T>) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      check_value(value[i], join_path(path, std::to_string(i)), origins);
    }
  }
}

}  // namespace frameshard
