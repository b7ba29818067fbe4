#include "core/io/text_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include <fcntl.h>
#include <unistd.h>

#include "core/error.h"
#include "core/io/file_kind.h"

namespace frameshard {
namespace {

bool names_descriptor(const std::string& path) {
  return path == "/dev/stdin" || path.starts_with("/dev/fd/") || path.starts_with("/proc/self/fd/");
}

}  // namespace

std::string read_text_file(const std::filesystem::path& file, std::size_t limit, const char* wanted) {
  const std::string name = file.string();
  std::error_code ignored;  // what cannot even be looked at fails to open below
  const auto status = std::filesystem::status(file, ignored);
  if (status.type() == std::filesystem::file_type::not_found) {
    fail(ExitCode::missing_file, "{}: no such file", name);
  }
  if (std::filesystem::is_directory(status)) {
    fail(ExitCode::missing_file, "{}: is a directory, {} is wanted", name, wanted);
  }
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
      !names_descriptor(name)) {
    fail(ExitCode::missing_file, "{}: is no regular file but {}, {} is wanted", name, kind_of_file(status),
         wanted);
  }
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail(ExitCode::io, "{}: cannot be read: {}", name, std::strerror(errno));
  std::string text;
  constexpr std::size_t piece = std::size_t{1} << 20;
  while (stream && text.size() <= limit) {
    const std::size_t before = text.size(), more = std::min(piece, limit + 1 - before);
    text.resize(before + more);
    stream.read(text.data() + before, static_cast<std::streamsize>(more));
    text.resize(before + static_cast<std::size_t>(stream.gcount()));
  }
  if (stream.bad()) fail(ExitCode::io, "{}: reading failed: {}", name, std::strerror(errno));
  return text;
}

void append_line(const std::filesystem::path& file, const std::string& line) {
  const std::string text = line + "\n";
  const int descriptor = open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  const bool written = descriptor >= 0 && write(descriptor, text.data(), text.size()) == ssize_t(text.size());
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (!written) fail(ExitCode::io, "{}: cannot be written: {}", file.string(), std::strerror(error));
}

}  // namespace frameshard
