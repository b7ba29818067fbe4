// Other programs of this host: where they are, and what they print.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace frameshard {

/// The first executable file of this name in the directories of PATH.
std::optional<std::filesystem::path> find_on_path(const std::string& name);

struct ProgramOutput {
  bool ended = false;  ///< within the time limit
  int code = 0;        ///< exit code, 128+n after signal n
  std::string text;    ///< stdout and stderr, at most the first 64 KiB
};

/// Runs a program (command[0] is its path) with `input` on its stdin and reads what it prints. After
/// `seconds` it is killed, with what it has started. 69 where it cannot be started.
ProgramOutput output_of(const std::vector<std::string>& command, double seconds,
                        const std::string& input = "");

}  // namespace frameshard
