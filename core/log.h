// Log lines on stderr, each tagged with the rank that wrote it.
#pragma once

#include <string>
#include <string_view>

#include <fmt/format.h>

namespace frameshard::log {

enum class Level { debug, info, warning, error };

/// Sets this thread's rank; ranks other than 0 show warnings and errors alone. A world of one has no tag.
void set_rank(int rank, int world_size);

/// FRAMESHARD_LOG=debug|info|warning|error|off chooses the level; the default is info.
void write(Level level, std::string_view message);

/// Text for the user on stderr, as it is. A stderr that is closed or full is no reason to stop a run.
void print(std::string_view text);

/// Lines on a terminal that stay below everything that this process prints: they take the place of those
/// shown before, and go when something else is printed, until they are shown again.
void show_live(std::string_view lines);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::warning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace frameshard::log
