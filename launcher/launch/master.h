// Node 0 while the ranks run: it starts mpirun, hands its daemons to the other nodes, and ends everything
// when a part is lost.
#pragma once

#include <string>

#include "launcher/launch/open_mpi.h"
#include "launcher/launch/rendezvous.h"

namespace frameshard {

struct MasterSettings {
  const LaunchOptions& options;
  const OpenMpi& mpi;
  NodeFacts mine;  ///< node 0
};

/// Runs the program on all nodes, again after a loss as often as --max-restarts allows, and returns its exit
/// code: the ranks' own; 69 where a node, a daemon or the network was lost, also where mpirun itself says 0;
/// 128+n for a signal. Tells the nodes how it ended.
int run_job(const MasterSettings& settings, std::vector<JoinedNode>& nodes, SignalPipe& signals);

/// Whether the same job may end otherwise the next time: not after errors in what it was given.
bool worth_a_restart(int exit_code);

/// Variables for mpirun and for the daemons of other nodes: which streams go where, and what must not be
/// inherited from an outer launcher.
Environment rank_environment(const LaunchOptions& options, int attempt);

}  // namespace frameshard
