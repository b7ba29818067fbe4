// JSON files of a checkpoint, with errors that name the file and the key.
#pragma once

#include <filesystem>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace frameshard {

using Json = nlohmann::ordered_json;

/// Reads a JSON object. 66 where the file is missing, 65 where it is not a JSON object.
Json read_json(const std::filesystem::path& file);

/// Reads keys of one JSON object; each error names the file, the key, and what was wanted.
class JsonReader {
 public:
  explicit JsonReader(const std::filesystem::path& file) : file_(file), json_(read_json(file)) {}

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }

  /// The value of `key`; 65 where it is missing or of another type.
  template <class T>
  T get(const char* key) const {
    if (!has(key)) fail(ExitCode::bad_data, "{}: the key \"{}\" is missing", file_.string(), key);
    try {
      if (std::is_integral_v<T> && !std::is_same_v<T, bool> && !json_[key].is_number_integer())
        throw_wrong_type(key);
      return json_[key].template get<T>();
    } catch (const nlohmann::json::exception&) {
      throw_wrong_type(key);
    }
  }
  /// A whole number in a range; 65 outside.
  int64_t get_between(const char* key, int64_t low, int64_t high) const {
    const auto value = get<int64_t>(key);
    if (value < low || value > high) {
      fail(ExitCode::bad_data, "{}: {} is {}; it must be between {} and {}", file_.string(), key, value, low,
           high);
    }
    return value;
  }
  template <class T>
  T get_or(const char* key, T fallback) const {
    return has(key) ? get<T>(key) : fallback;
  }
  /// For settings of which one value alone is implemented; a missing key counts as that value.
  template <class T>
  void expect(const char* key, const T& supported) const {
    if (has(key) && get<T>(key) != supported) {
      fail(ExitCode::bad_data, "{}: {} = {} is not supported; this version supports {}", file_.string(), key,
           json_[key].dump(), Json(supported).dump());
    }
  }

 private:
  [[noreturn]] void throw_wrong_type(const char* key) const {
    fail(ExitCode::bad_data, "{}: \"{}\" has the wrong type: {}", file_.string(), key, json_[key].dump());
  }

  std::filesystem::path file_;
  Json json_;
};

}  // namespace frameshard
