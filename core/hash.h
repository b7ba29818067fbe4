// FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/): tells contents apart; no protection against intent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace frameshard {

/// `before`: the hash of the bytes in front of these, for what is read in pieces.
uint64_t fnv1a(std::string_view bytes, uint64_t before = 0xcbf29ce484222325);

/// Of a file's content, read in pieces; 66 or 74 where it cannot be read.
uint64_t file_fnv1a(const std::filesystem::path& file);

/// The same as 16 hexadecimal digits.
std::string file_hash(const std::filesystem::path& file);

}  // namespace frameshard
