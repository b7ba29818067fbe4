// How this process takes part: as a rank under mpirun or srun, alone, or as several ranks in threads.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// A rank's place, known before any device is touched.
struct RankPlace {
  int rank = 0;        ///< of the job, as the mesh counts
  int local_rank = 0;  ///< among the ranks of this host
  int local_size = 1;
  bool under_mpi = false;
  int cores = 1;                        ///< cores that this rank has to itself
  std::vector<int> all_cpus, own_cpus;  ///< what it may run on, and of it its NUMA node; empty: no matter
};

/// Throws 76 where a variable of the launcher (OMPI_COMM_WORLD_SIZE, SLURM_NTASKS, WORLD_SIZE) names another
/// world size.
void check_world_size(int size);

/// Throws 76 where such a variable names another rank than MPI; warns where it names another local rank, by
/// which devices are dealt out.
void check_rank(int rank, int local_rank);

/// Throws 76, with a table, where ranks run different versions of the engine or a library. Collective.
void check_same_versions(const std::map<std::string, std::string>& mine, Communicator& world);

/// Fills in `cores` and the cpus: those of this host, near this rank's GPU if it has one, divided among the
/// ranks that share them. Ranks that were bound to cores of their own keep theirs. Collective.
void divide_cores(RankPlace& place, Communicator& world);

/// Counts hosts in the order of their ranks: the same on all ranks of one. Collective.
int host_number(const RankPlace& place, Communicator& world);

/// Whether every rank has a GPU to itself. Collective.
bool have_own_gpus(const RankPlace& place, Communicator& world);

/// The variable that names a file which tells `launch` that all ranks of the job have met.
inline constexpr const char* ranks_met_variable = "FRAMESHARD_RANKS_MET";
/// Makes that file; on the first rank, once MPI runs.
void note_ranks_met(const Communicator& world);

/// OMP_NUM_THREADS, or `otherwise` where it does not say.
int omp_threads(int otherwise);

/// Keeps a rank of `threads` threads on the cores of its NUMA node, where its memory is. Not on single cores:
/// two jobs that share a host would choose the same ones, and ranks that wait for messages do not give a core
/// away.
void stay_on_own_cpus(const RankPlace& place, int threads);
void use_all_cpus(const RankPlace& place);

/// The number of ranks that `auto` means on this machine: its GPUs if any, else its cores (at least 2, at
/// most 8).
int local_device_count();

}  // namespace frameshard
