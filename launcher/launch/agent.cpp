#include "launcher/launch/agent.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>

#include <sys/prctl.h>
#include <sys/socket.h>

#include "core/error.h"
#include "core/io/json_file.h"
#include "core/log.h"
#include "launcher/launch/socket.h"

namespace frameshard {

int run_agent(const std::vector<std::string>& words) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const char* path = std::getenv("FRAMESHARD_AGENT_SOCKET");
  if (!path || words.size() < 2) {
    log::print(fmt::format("{} is started by mpirun, below frameshard launch\n", agent_name));
    return int(ExitCode::usage);
  }
  try {
    const Socket launcher = connect_to_path(path);
    const Json request = {{"host", words[0]},
                          {"words", std::vector<std::string>(words.begin() + 1, words.end())}};
    const std::string line = request.dump() + "\n";
    if (::send(launcher.descriptor(), line.data(), line.size(), MSG_NOSIGNAL) != ssize_t(line.size())) {
      return int(ExitCode::unavailable);
    }
    // One byte, the exit code, when the daemon has ended; nothing when the launcher has.
    unsigned char code = 0;
    ssize_t count = 0;
    do {
      count = ::recv(launcher.descriptor(), &code, 1, 0);
    } while (count < 0 && errno == EINTR);
    return count == 1 ? code : int(ExitCode::unavailable);
  } catch (const Error& error) {
    log::print(fmt::format("{}\n", error.what()));
    return int(error.code());
  }
}

}  // namespace frameshard
