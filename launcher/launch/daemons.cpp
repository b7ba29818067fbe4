#include "launcher/launch/daemons.h"

#include <algorithm>
#include <cerrno>

#include <sys/socket.h>

#include "core/error.h"

namespace frameshard {

Daemons::Daemons(const std::filesystem::path& socket, const std::vector<JoinedNode>& nodes,
                 HandOver hand_over)
    : nodes_(nodes), hand_over_(std::move(hand_over)), agents_(listen_on_path(socket.string())) {}

void Daemons::add_descriptors(std::vector<pollfd>& waiting) const {
  waiting.push_back({.fd = agents_.descriptor(), .events = POLLIN, .revents = 0});
  for (const Daemon& daemon : daemons_) {
    if (daemon.agent.open())
      waiting.push_back({.fd = daemon.agent.descriptor(), .events = POLLIN, .revents = 0});
  }
}

void Daemons::hear(bool mpirun_runs) {
  for (Socket agent = accept_from(agents_); agent.open(); agent = accept_from(agents_)) {
    daemons_.push_back(
        {.node = nodes_.size(), .agent = std::move(agent), .request = {}, .agent_lost = {}, .code = {}});
  }
  for (Daemon& daemon : daemons_) {
    if (daemon.agent.open()) hear(daemon);
    const bool lost = daemon.agent_lost && Clock::now() - *daemon.agent_lost > std::chrono::seconds(1);
    if (lost && !daemon.code && mpirun_runs) {
      fail(ExitCode::unavailable, "the start agent of a node was ended");
    }
  }
  std::erase_if(daemons_, [&](auto& daemon) { return !known(daemon) && !daemon.agent.open(); });
}

void Daemons::hear(Daemon& daemon) {
  char bytes[4096];
  const ssize_t count = ::recv(daemon.agent.descriptor(), bytes, sizeof bytes, 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    daemon.agent.close();
    daemon.agent_lost = Clock::now();
    return;
  }
  daemon.request.append(bytes, size_t(count));
  if (!known(daemon) && daemon.request.ends_with('\n')) hand_over(daemon);
}

// The daemon's command goes to the node that mpirun named.
void Daemons::hand_over(Daemon& daemon) {
  const Json request = Json::parse(daemon.request, nullptr, /*allow_exceptions=*/false);
  const std::string host = request.is_object() ? request.value("host", "") : "";
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].facts.address != host) continue;
    daemon.node = i;
    return hand_over_(i, request["words"]);
  }
  fail(ExitCode::unavailable, "mpirun wants to start on \"{}\", which is no node of this job", host);
}

void Daemons::ended(size_t node, int code, bool killed) {
  for (Daemon& daemon : daemons_) {
    if (daemon.node != node || daemon.code) continue;
    daemon.code = code;
    daemon.killed = killed;
    const auto byte = static_cast<unsigned char>(code);
    if (daemon.agent.open()) ::send(daemon.agent.descriptor(), &byte, 1, MSG_NOSIGNAL);
  }
}

bool Daemons::all_ended() const {
  return std::all_of(daemons_.begin(), daemons_.end(), [](auto& daemon) { return daemon.code.has_value(); });
}

std::optional<std::string> Daemons::lost(int code) const {
  for (const Daemon& daemon : daemons_) {
    if (!daemon.killed && (code != 0 || daemon.code == 0)) continue;
    return fmt::format("the MPI daemon of {} {}", known(daemon) ? nodes_[daemon.node].link->peer() : "a node",
                       daemon.code ? fmt::format("ended with {}", *daemon.code) : "did not report its end");
  }
  return std::nullopt;
}

}  // namespace frameshard
