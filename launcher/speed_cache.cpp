#include "launcher/speed_cache.h"

#include <cmath>
#include <cstdlib>

#include "core/io/atomic_file.h"
#include "core/io/file_kind.h"
#include "core/io/json_file.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

constexpr const char* table = "operations_per_second";
// Sizes that were tried once: beyond so many the file begins anew.
constexpr size_t most_entries = 4096;

fs::path directory_of(const char* variable) {
  const char* value = std::getenv(variable);
  return value ? fs::path(value) : fs::path();
}

// What is there and is neither to be waited for nor replaced, or nothing.
std::string no_file(const fs::path& file, const fs::file_status& status) {
  if (!fs::exists(status) || fs::is_regular_file(status)) return "";
  return fmt::format("{}: is {}, not a file", file.string(), kind_of_file(status));
}

}  // namespace

fs::path speeds_file() {
  fs::path directory = directory_of("FRAMESHARD_CACHE");
  // Relative ones are to be ignored (XDG Base Directory Specification).
  if (const fs::path cache = directory_of("XDG_CACHE_HOME"); directory.empty() && cache.is_absolute()) {
    directory = cache / "frameshard";
  }
  if (const fs::path home = directory_of("HOME"); directory.empty() && home.is_absolute()) {
    directory = home / ".cache" / "frameshard";
  }
  return directory.empty() ? fs::path() : directory / "speeds.json";
}

KnownSpeeds read_speeds(const fs::path& file, std::string& complaint) {
  std::error_code none;
  if (file.empty() || !fs::exists(file, none)) return {};
  complaint = no_file(file, fs::status(file, none));
  if (!complaint.empty()) return {};
  try {
    KnownSpeeds speeds;
    const Json json = read_json(file);
    if (!json.contains(table) || !json[table].is_object()) {
      fail(ExitCode::bad_data, "{}: no object \"{}\"", file.string(), table);
    }
    for (const auto& [key, value] : json[table].items()) {
      const double speed = value.is_number() ? value.get<double>() : 0;
      if (!(speed > 0) || !std::isfinite(speed)) {
        fail(ExitCode::bad_data, "{}: \"{}\" is {}, no speed", file.string(), key, value.dump());
      }
      speeds[key] = speed;
    }
    return speeds;
  } catch (const std::exception& error) {
    complaint = error.what();
    return {};
  }
}

std::string add_speeds(const fs::path& file, const KnownSpeeds& speeds) {
  if (file.empty()) return "FRAMESHARD_CACHE, XDG_CACHE_HOME and HOME are not set";
  std::error_code none;
  if (std::string other = no_file(file, fs::symlink_status(file, none)); !other.empty()) return other;
  std::string broken;  // such a file is replaced
  KnownSpeeds all = read_speeds(file, broken);
  if (all.size() + speeds.size() > most_entries) all.clear();
  for (const auto& [key, speed] : speeds) all[key] = speed;
  Json json = {{table, Json::object()}};
  for (const auto& [key, speed] : all) json[table][key] = speed;
  try {
    fs::create_directories(file.parent_path());
    write_file_atomically(file, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace frameshard
