// Small text files, read whole, and files of lines.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace frameshard {

/// At most `limit` + 1 bytes of a file: one more than allowed shows that it is too long. `wanted` ("a YAML
/// file") is for messages. 66 where it is not there or no regular file, 74 where it cannot be read. What the
/// process has open, named by its descriptor as the shell names <(...), may be a pipe: reading a FIFO by name
/// would wait for somebody to write.
std::string read_text_file(const std::filesystem::path& file, std::size_t limit, const char* wanted);

/// Appends a line in one write, so that a killed process leaves whole lines. 74 where that fails.
void append_line(const std::filesystem::path& file, const std::string& line);

}  // namespace frameshard
