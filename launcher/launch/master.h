// Node 0 while the ranks run: it starts mpirun, hands its daemons to the other nodes, and ends everything
// when a part is lost.
#pragma once

#include <functional>
#include <string>

#include "launcher/launch/open_mpi.h"
#include "launcher/launch/rendezvous.h"

namespace frameshard {

struct MasterSettings {
  const LaunchOptions& options;
  const OpenMpi& mpi;
  NodeFacts mine;  ///< node 0
  /// Waits until nodes that were lost have joined again.
  std::function<void(std::vector<JoinedNode>&)> wait_for_nodes;
};

/// Runs the program on all nodes, again after a loss as often as --max-restarts allows (once a lost node has
/// joined again), and returns its exit code: the ranks' own; 69 where a node, a daemon or the network was
/// lost, also where mpirun itself says 0; 128+n for a signal. Tells the nodes how it ended.
int run_job(const MasterSettings& settings, std::vector<JoinedNode>& nodes, SignalPipe& signals);

/// Whether the same job may end otherwise the next time: not after errors in what it was given.
bool worth_a_restart(int exit_code);

}  // namespace frameshard
