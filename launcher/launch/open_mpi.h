// Open MPI's commands as this launcher uses them: mpirun with our start agent, and its daemon on the other
// nodes. Versions 4 and 5 spell most of it differently.
#pragma once

#include <string>
#include <vector>

#include "launcher/doctor/mpi_match.h"

namespace frameshard {

struct OpenMpi {
  std::string mpirun;  ///< absolute path
  std::string daemon;  ///< orted (4) or prted (5) of the same installation; empty where it is not there
  MpiRelease release;
};

/// The mpirun on PATH. 66 where there is none, 69 where it is not Open MPI 4 or 5.
OpenMpi find_open_mpi();

struct MpiNode {
  std::string address;
  int ranks = 1;
};

/// What one start of mpirun needs to know.
struct MpiJob {
  std::vector<MpiNode> nodes;          ///< node 0, where mpirun runs, first
  std::string network;                 ///< "10.0.0.0/24" that all nodes share; empty: MPI chooses
  std::string agent;                   ///< the start agent's path, without spaces
  std::string scratch, shared_memory;  ///< directories of this job alone, on every node
  std::vector<std::string> program;
};
std::vector<std::string> mpirun_command(const OpenMpi& mpi, const MpiJob& job);

/// The command of this node's own daemon, from what mpirun wanted to start here through a shell: `words` are
/// the agent's arguments after the host. Throws 77 for anything that is not a daemon of mpirun on
/// `master_address`. The paths, exports and agents in `words` are not used.
std::vector<std::string> daemon_command(const OpenMpi& mpi, const std::vector<std::string>& words,
                                        const std::string& master_address);

}  // namespace frameshard
