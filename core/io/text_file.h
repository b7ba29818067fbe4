// Small text files, read whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace frameshard {

/// At most `limit` + 1 bytes of a file: one more than allowed shows that it is too long. `wanted` ("a YAML
/// file") is for messages. 66 where it is not there or a directory, 74 where it cannot be read.
std::string read_text_file(const std::filesystem::path& file, std::size_t limit, const char* wanted);

}  // namespace frameshard
