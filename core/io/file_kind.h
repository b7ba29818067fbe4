// What lies at a path, for messages about files that are none.
#pragma once

#include <filesystem>
#include <string>

#include "core/error.h"

namespace frameshard {

/// "a directory", "a FIFO", ...; of a link that was followed, what it leads to, else "a link".
inline const char* kind_of_file(const std::filesystem::file_status& status) {
  switch (status.type()) {
    case std::filesystem::file_type::regular:
      return "a file";
    case std::filesystem::file_type::directory:
      return "a directory";
    case std::filesystem::file_type::symlink:
      return "a link";
    case std::filesystem::file_type::fifo:
      return "a FIFO";
    case std::filesystem::file_type::socket:
      return "a socket";
    case std::filesystem::file_type::character:
    case std::filesystem::file_type::block:
      return "a device";
    default:
      return "of no known kind";
  }
}

/// 66 where there is no file to read.
inline void require_file(const std::filesystem::path& file) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (std::filesystem::is_regular_file(status)) return;
  if (std::filesystem::exists(status)) {
    fail(ExitCode::missing_file, "{}: is {}, a file is wanted", file.string(), kind_of_file(status));
  }
  fail(ExitCode::missing_file, "{}: no such file", file.string());
}

/// 74 where something that is no file is there already: a file that appears by a rename would take its place.
/// `name` begins the message.
inline void check_replaceable(const std::string& name, const std::filesystem::file_status& status) {
  if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) return;
  fail(ExitCode::io, "{}: is {}; give the name of a file", name, kind_of_file(status));
}

}  // namespace frameshard
