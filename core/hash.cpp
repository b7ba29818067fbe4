#include "core/hash.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "core/error.h"

namespace frameshard {

uint64_t fnv1a(std::string_view bytes, uint64_t before) {
  uint64_t hash = before;
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

uint64_t file_fnv1a(const std::filesystem::path& file) {
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  std::vector<char> piece(size_t{1} << 20);
  uint64_t hash = fnv1a("");
  while (in.read(piece.data(), std::streamsize(piece.size())) || in.gcount() > 0) {
    hash = fnv1a({piece.data(), size_t(in.gcount())}, hash);
  }
  if (!in.eof()) {  // not opened, or reading failed
    fail(errno == ENOENT ? ExitCode::missing_file : ExitCode::io, "{}: {}", file.string(),
         std::strerror(errno));
  }
  return hash;
}

std::string file_hash(const std::filesystem::path& file) {
  return fmt::format("{:016x}", file_fnv1a(file));
}

}  // namespace frameshard
