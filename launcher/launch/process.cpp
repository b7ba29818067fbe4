#include "launcher/launch/process.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"

namespace frameshard {
namespace {

constexpr int piped_signals[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1};

// What a signal handler can reach.
int pipe_ends[2] = {-1, -1};

void write_signal(int signal) {
  const int saved = errno;
  const auto byte = static_cast<unsigned char>(signal);
  [[maybe_unused]] const ssize_t written =
      write(pipe_ends[1], &byte, 1);  // a full pipe already wakes the loop
  errno = saved;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> changed_environment(const Environment& changes) {
  std::map<std::string, std::string> variables;
  for (char** each = environ; *each; ++each) {
    const std::string text = *each;
    const size_t equal = text.find('=');
    if (equal != std::string::npos) variables[text.substr(0, equal)] = text.substr(equal + 1);
  }
  for (const auto& [name, value] : changes) {
    if (value.empty()) {
      variables.erase(name);
    } else {
      variables[name] = value;
    }
  }
  std::vector<std::string> result;
  for (const auto& [name, value] : variables) result.push_back(name + "=" + value);
  return result;
}

// The parent of a process, 0 where it is gone. The name in the second field may hold spaces and brackets.
pid_t parent_of(const std::string& pid) {
  std::ifstream in("/proc/" + pid + "/stat");
  std::string line;
  std::getline(in, line);
  const size_t end = line.rfind(')');
  char state = 0;
  int parent = 0;
  if (end == std::string::npos || std::sscanf(line.c_str() + end + 1, " %c %d", &state, &parent) != 2)
    return 0;
  return state == 'Z' ? 0 : parent;
}

}  // namespace

pid_t start_process(const std::vector<std::string>& command, const Environment& changes) {
  std::vector<std::string> words = command, variables = changed_environment(changes);
  const auto arguments = pointers(words), environment = pointers(variables);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) fail(ExitCode::unavailable, "{} could not be started: {}", command[0], std::strerror(errno));
  if (child == 0) {
    setpgid(0, 0);  // the terminal's ^C reaches the launcher alone, which ends the job in order
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(128 + SIGTERM);
    dup2(null, STDIN_FILENO);
    for (const int signal : piped_signals) std::signal(signal, SIG_DFL);
    std::signal(SIGPIPE, SIG_DFL);
    execve(arguments[0], arguments.data(), environment.data());
    dprintf(STDERR_FILENO, "FAILED: %s cannot be started: %s\n", arguments[0], std::strerror(errno));
    _exit(int(ExitCode::unavailable));
  }
  close(null);
  return child;
}

int exit_code_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::vector<pid_t> descendants() {
  std::multimap<pid_t, pid_t> children;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    children.emplace(parent_of(name), pid_t(std::stol(name)));
  }
  std::vector<pid_t> found{getpid()};
  for (size_t i = 0; i < found.size(); ++i) {
    const auto [begin, end] = children.equal_range(found[i]);
    for (auto child = begin; child != end; ++child) found.push_back(child->second);
  }
  found.erase(found.begin());
  return found;
}

void adopt_orphans() {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
}

void end_descendants(double grace_seconds) {
  using clock = std::chrono::steady_clock;
  const auto deadline = clock::now() + std::chrono::duration<double>(grace_seconds);
  for (const pid_t pid : descendants()) kill(pid, SIGTERM);
  for (;;) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    const auto left = descendants();
    // A process that the kernel holds cannot be ended by anybody; it is not waited for.
    if (left.empty() || clock::now() >= deadline + std::chrono::seconds(5)) return;
    if (clock::now() >= deadline) {
      for (const pid_t pid : left) kill(pid, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

SignalPipe::SignalPipe() {
  require(pipe_ends[0] < 0, "one SignalPipe at a time");
  if (pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) != 0) fail(ExitCode::io, "no pipe: {}", std::strerror(errno));
  struct sigaction action {};
  action.sa_handler = write_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : piped_signals) sigaction(signal, &action, nullptr);
}

SignalPipe::~SignalPipe() {
  for (const int signal : piped_signals) std::signal(signal, SIG_DFL);
  for (int& end : pipe_ends) {
    close(end);
    end = -1;
  }
}

int SignalPipe::descriptor() const {
  return pipe_ends[0];
}

std::vector<int> SignalPipe::take() {
  std::vector<int> signals;
  unsigned char byte = 0;
  while (read(pipe_ends[0], &byte, 1) == 1) signals.push_back(byte);
  return signals;
}

}  // namespace frameshard
