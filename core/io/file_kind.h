// What lies at a path, for messages about files that are none.
#pragma once

#include <filesystem>

namespace frameshard {

/// "a directory", "a FIFO", ...; of a link that was followed, what it leads to.
inline const char* kind_of_file(const std::filesystem::file_status& status) {
  switch (status.type()) {
    case std::filesystem::file_type::regular:
      return "a file";
    case std::filesystem::file_type::directory:
      return "a directory";
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

}  // namespace frameshard
