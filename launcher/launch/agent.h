// The start agent: what mpirun calls, in ssh's place, to start its daemon on another node. It hands the
// daemon's command to the launcher that started mpirun, and ends when and as that daemon ends.
#pragma once

#include <string>
#include <vector>

namespace frameshard {

/// The agent is this program under this name.
constexpr const char* agent_name = "frameshard-agent";

/// `words`: the host, then the daemon's command. The launcher listens at FRAMESHARD_AGENT_SOCKET. Returns the
/// daemon's exit code; 69 where the launcher or the node is gone.
int run_agent(const std::vector<std::string>& words);

}  // namespace frameshard
