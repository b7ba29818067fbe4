// Config files for tests: written to a directory of their own, removed at the end.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

#include "core/config.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

namespace frameshard::test {

/// A file with a text, named relative to a fresh directory.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text, const std::string& name = "a.yaml") {
    static int count = 0;
    directory_ = std::filesystem::temp_directory_path() /
                 ("frameshard_config_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(directory_);
    path_ = directory_ / name;
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~ConfigFile() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  ConfigFile(const ConfigFile&) = delete;
  ConfigFile& operator=(const ConfigFile&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path directory_;
  std::filesystem::path path_;
};

/// Loads a text as if it stood in a file.
inline RunConfig load(const std::string& text, const std::vector<std::string>& overrides = {}) {
  const ConfigFile file(text);
  return load_run_config(file.path(), overrides);
}

inline const std::string model_line = "model: {path: m}\n";

/// Checks that a file is refused with 78; the message starts with its place, the rest is as given.
inline void check_config_refused(const std::string& text, const std::string& place,
                                 const std::string& words) {
  const ConfigFile file(text);
  INFO("text: " << text);
  const auto error = caught([&] { load_run_config(file.path()); });
  INFO("message: " << error.message);
  CHECK(error.code == ExitCode::config);
  CHECK(error.message.starts_with(file.path().string() + place + ": "));
  CHECK(error.has(words));
}

/// The same for one line of a request, at that line's value.
inline void check_request_line(const std::string& line, const std::string& words) {
  check_config_refused(model_line + "request:\n  prompt: p\n  " + line + "\n",
                       ":4:" + std::to_string(line.find(' ') + 4), words);
}

/// A request with one line besides the prompt.
inline RequestConfig request_with(const std::string& line) {
  return *load(model_line + "request:\n  prompt: p\n  " + line + "\n").request;
}

// clang-format off
/// Texts that a careless writer of YAML would break.
inline const std::vector<std::string> nasty_texts = {
    "", " ", " leading", "trailing ", "null", "Null", "~", "true", "yes", "off", "auto", "5", "010",
    "1e3", ".inf", "-", "- a", "-1", "a: b", "a:", ": a", "a #b", "#a", "{a: 1}", "[a]", "*a", "&a",
    "!a", "!!str a", "%a", "@a", "`a`", "|", ">", "?", "? a", "'", "''", "\"", "\"a\"", "it's", "a\\nb",
    "\\", "a\nb", "\n", "\n\n a\n", "a\r\nb", "\ta", "a\tb", "---", "...", "--- a", "<<", "=", "a, b",
    "é", "红色的圆", "😀", "\x01\x04\x1b\x7f", "\xC2\x80\xC2\x85\xC2\xA0", "\xE2\x80\xA8\xE2\x80\xA9",
    "\xEF\xBB\xBF" "a", "\xEF\xBF\xBE\xEF\xBF\xBF", "\xF4\x8F\xBF\xBF", "a/b.c-d_e", "/abs/path",
    "C:\\x", "${x}", "a\xE2\x80\x8B" "b",
};
// clang-format on

}  // namespace frameshard::test
