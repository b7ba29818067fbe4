#include "core/log.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace frameshard::log {
namespace {

thread_local int this_rank = 0;
thread_local int this_world = 1;

std::mutex output;
int64_t live_lines = 0;  // under `output`

void write_to_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void erase_live() {
  if (live_lines > 0) write_to_stderr(fmt::format("\r\033[{}A\033[J", live_lines));
  live_lines = 0;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_color_mt("frameshard");
    made->set_pattern("%^%v%$");
    const char* wanted = std::getenv("FRAMESHARD_LOG");
    const auto level = wanted ? spdlog::level::from_str(wanted) : spdlog::level::info;
    // from_str answers "off" to a word that it does not know.
    made->set_level(level == spdlog::level::off && std::string(wanted) != "off" ? spdlog::level::info
                                                                                : level);
    return made;
  }();
  return *instance;
}

}  // namespace

void set_rank(int rank, int world_size) {
  this_rank = rank;
  this_world = world_size;
}

void print(std::string_view text) {
  const std::lock_guard lock(output);
  erase_live();
  write_to_stderr(text);
}

void show_live(std::string_view lines) {
  const std::lock_guard lock(output);
  erase_live();
  write_to_stderr(lines);
  live_lines = std::count(lines.begin(), lines.end(), '\n');
}

void write(Level level, std::string_view message) {
  if (this_rank != 0 && level < Level::warning) return;
  const std::lock_guard lock(output);
  if (logger().should_log(to_spdlog(level))) erase_live();
  const char* word = level == Level::warning ? "warning: " : level == Level::error ? "error: " : "";
  if (this_world > 1 && this_rank != 0) {
    logger().log(to_spdlog(level), "[rank {}] {}{}", this_rank, word, message);
  } else {
    logger().log(to_spdlog(level), "{}{}", word, message);
  }
}

}  // namespace frameshard::log
