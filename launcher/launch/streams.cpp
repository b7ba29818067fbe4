#include "launcher/launch/streams.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "core/error.h"
#include "launcher/launch/options.h"
#include "launcher/launch/rank_watch.h"

namespace frameshard {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

void send_to_file(int stream, const std::filesystem::path& file) {
  const int descriptor = open(file.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) fail(ExitCode::io, "{}: cannot be written: {}", file.string(), std::strerror(errno));
  dup2(descriptor, stream);
  close(descriptor);
}

// A tee of its own process, so that the last words of a rank that is killed still get through.
void send_to_both(int stream, const std::filesystem::path& file) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail(ExitCode::io, "no pipe: {}", std::strerror(errno));
  const pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);  // signals for the rank are not for its tee, which ends with the pipe
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) std::signal(signal, SIG_IGN);
    dup2(ends[0], STDIN_FILENO);
    if (stream == STDERR_FILENO) dup2(STDERR_FILENO, STDOUT_FILENO);
    execlp("tee", "tee", file.c_str(), nullptr);
    _exit(127);
  }
  if (child < 0) fail(ExitCode::io, "tee could not be started: {}", std::strerror(errno));
  dup2(ends[1], stream);
  close(ends[0]);
  close(ends[1]);
}

void place_streams(const std::filesystem::path& logs) {
  const std::string rank = variable("OMPI_COMM_WORLD_RANK");
  const int local_rank = std::atoi(variable("OMPI_COMM_WORLD_LOCAL_RANK").c_str());
  const int redirects = streams_of(variable("FRAMESHARD_REDIRECTS"), local_rank, "--redirects");
  const int tees = streams_of(variable("FRAMESHARD_TEE"), local_rank, "--tee");
  if ((redirects | tees) == 0) return;
  const auto directory = logs / rank;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail(ExitCode::io, "{}: cannot be made: {}; set --log-dir", directory.string(), error.message());
  // Before any byte is written: output that waits in a buffer would go to both places.
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
    const auto file = directory / (stream == STDOUT_FILENO ? "stdout.log" : "stderr.log");
    if (tees & stream) {
      send_to_both(stream, file);
    } else if (redirects & stream) {
      send_to_file(stream, file);
    }
  }
}

}  // namespace

void become_launched_rank() {
  if (variable("OMPI_COMM_WORLD_RANK").empty()) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  sign_in(variable("OMPI_COMM_WORLD_RANK"));
  const std::string directory = variable("FRAMESHARD_DIRECTORY");
  if (!directory.empty() && chdir(directory.c_str()) != 0) {
    fail(ExitCode::missing_file, "{}: {}; the launcher of this node was started there", directory,
         std::strerror(errno));
  }
  if (const std::string logs = variable("FRAMESHARD_LOG_DIR"); !logs.empty()) place_streams(logs);
}

}  // namespace frameshard
