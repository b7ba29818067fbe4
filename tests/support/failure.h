// What an action failed with, here or in a forked child, and Catch2's matcher for its message.
#pragma once

#include <functional>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "tests/support/catch.h"

namespace frameshard::test {

#if __has_include(<catch2/catch_all.hpp>)
/// The name that Catch2 3 has for it; its Contains is about containers.
inline const auto Contains = [](const std::string& part) { return Catch::Matchers::ContainsSubstring(part); };
#else
using Catch::Matchers::Contains;
#endif

/// What an action failed with.
struct Failure {
  ExitCode code = ExitCode::ok;
  std::string message;
};

inline Failure failure_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

/// Runs an action in a forked child, for what would harm this process, and brings its failure back.
inline Failure failure_in_child(const std::function<void()>& action) {
  int ends[2];
  require(pipe(ends) == 0, "pipe failed");
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    const Failure failure = failure_of(action);
    const ssize_t sent = write(ends[1], failure.message.data(), failure.message.size());
    _exit(sent == static_cast<ssize_t>(failure.message.size()) ? static_cast<int>(failure.code) : 255);
  }
  close(ends[1]);
  std::string message;
  char buffer[512];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof buffer)) > 0;) message.append(buffer, got);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  require(WIFEXITED(status), "the child was ended by a signal");
  return {static_cast<ExitCode>(WEXITSTATUS(status)), message};
}

}  // namespace frameshard::test
