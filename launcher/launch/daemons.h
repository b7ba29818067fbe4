// MPI's daemons on the other nodes: mpirun asks for each through the start agent, and the launcher of that
// node starts it.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <poll.h>

#include "launcher/launch/rendezvous.h"
#include "launcher/launch/socket.h"

namespace frameshard {

class Daemons {
 public:
  /// Gives a node the words of its daemon's command.
  using HandOver = std::function<void(size_t node, const Json& words)>;

  /// Agents connect to `socket`. `nodes` must outlive this.
  Daemons(const std::filesystem::path& socket, const std::vector<JoinedNode>& nodes, HandOver hand_over);

  void add_descriptors(std::vector<pollfd>& waiting) const;
  /// Takes what agents say, and hands complete commands over. 69 where mpirun names a host that is none of
  /// the job, and where an agent was ended while mpirun runs.
  void hear(bool mpirun_runs);
  /// The daemon of a node has ended: its agent ends with that code.
  void ended(size_t node, int code, bool killed);
  bool all_ended() const;
  /// What to say of a daemon that was lost, where mpirun ended with `code` all the same.
  std::optional<std::string> lost(int code) const;

 private:
  using Clock = std::chrono::steady_clock;

  // From mpirun's call of the agent to the daemon's end.
  struct Daemon {
    size_t node;  // nodes_.size(): not known yet
    Socket agent;
    std::string request;                          // what the agent has sent so far
    std::optional<Clock::time_point> agent_lost;  // when the agent was gone: mpirun must be ending too
    std::optional<int> code;                      // exit code, when ended
    bool killed = false;                          // by a signal
  };

  bool known(const Daemon& daemon) const { return daemon.node < nodes_.size(); }
  void hear(Daemon& daemon);
  void hand_over(Daemon& daemon);

  const std::vector<JoinedNode>& nodes_;
  HandOver hand_over_;
  Socket agents_;
  std::vector<Daemon> daemons_;
};

}  // namespace frameshard
