// FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/): tells contents apart; no protection against intent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace frameshard {

uint64_t fnv1a(std::string_view bytes);

/// 16 hexadecimal digits of a file's content; 66 or 74 where it cannot be read.
std::string file_hash(const std::filesystem::path& file);

}  // namespace frameshard
