// How this process takes part: as a rank under mpirun or srun, alone, or as several ranks in threads.
#pragma once

#include <functional>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// A rank's place, known before any device is touched.
struct RankPlace {
  int local_rank = 0;  ///< among the ranks of this host
  int local_size = 1;
  bool under_mpi = false;
  int cores = 1;  ///< cores that this rank has to itself
};

/// Throws 76 where a variable of the launcher (OMPI_COMM_WORLD_SIZE, SLURM_NTASKS, WORLD_SIZE) names another
/// world size.
void check_world_size(int size);

/// Cores of this host divided among the ranks that share them: ranks bound to cores of their own keep theirs.
int cores_a_rank(Communicator& world);

/// The number of ranks that `auto` means on this machine: its GPUs if any, else its cores (at least 2, at
/// most 8).
int local_device_count();

}  // namespace frameshard
