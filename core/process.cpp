#include "core/process.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"

namespace frameshard {
namespace {

constexpr size_t longest_output = 64 << 10;

// The text as a file that a program can read from its beginning. A pipe would have to be filled while the
// program's output is read.
int readable_file(const std::string& text) {
  const int file = memfd_create("input", MFD_CLOEXEC);
  if (file < 0) fail(ExitCode::unavailable, "no file in memory: {}", std::strerror(errno));
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(file, text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) {
      close(file);
      fail(ExitCode::unavailable, "a program's input cannot be kept in memory: {}", std::strerror(errno));
    }
    done += size_t(wrote);
  }
  lseek(file, 0, SEEK_SET);
  return file;
}

// Starts the program in a process group of its own, its output in a pipe; gives the pipe's reading end.
int start(const std::vector<std::string>& command, const std::string& input, pid_t& child) {
  const int source = readable_file(input);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    close(source);
    fail(ExitCode::unavailable, "no pipe: {}", std::strerror(errno));
  }
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, source, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, ends[1], STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  sigset_t none;  // what this process blocks (core/stop.h) is no matter of the other
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  std::vector<std::string> words = command;
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int error = posix_spawn(&child, arguments[0], &files, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  close(ends[1]);
  close(source);
  if (error != 0) {
    close(ends[0]);
    fail(ExitCode::unavailable, "{} could not be started: {}", command[0], std::strerror(error));
  }
  return ends[0];
}

// Reads until the other end is closed (true) or the time is over.
bool read_all(int pipe, std::chrono::steady_clock::time_point end, std::string& text) {
  char buffer[4096];
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd wait{.fd = pipe, .events = POLLIN, .revents = 0};
    const int ready = left.count() > 0 ? poll(&wait, 1, int(left.count())) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    const ssize_t got = read(pipe, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return true;
    text.append(buffer, std::min(size_t(got), longest_output - text.size()));
  }
}

}  // namespace

std::optional<std::filesystem::path> find_on_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  for (std::string rest = path ? path : ""; !rest.empty();) {
    const size_t colon = rest.find(':');
    const auto candidate = std::filesystem::path(rest.substr(0, colon)) / name;
    std::error_code ignored;
    if (std::filesystem::is_regular_file(candidate, ignored) && access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
  }
  return std::nullopt;
}

ProgramOutput output_of(const std::vector<std::string>& command, double seconds, const std::string& input) {
  const auto limit =
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
  const auto end = std::chrono::steady_clock::now() + limit;
  pid_t child = 0;
  const int pipe = start(command, input, child);
  ProgramOutput output;
  output.ended = read_all(pipe, end, output.text);
  close(pipe);
  // A program that has closed its output may still run on: nothing more is wanted of it either way.
  if (!output.ended) kill(-child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  output.code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return output;
}

}  // namespace frameshard
