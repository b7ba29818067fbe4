#include "core/hash.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/error.h"

namespace frameshard {

uint64_t fnv1a(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

std::string file_hash(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(in), {}};
  if (!in)
    fail(errno == ENOENT ? ExitCode::missing_file : ExitCode::io, "{}: {}", file.string(),
         std::strerror(errno));
  return fmt::format("{:016x}", fnv1a(content));
}

}  // namespace frameshard
