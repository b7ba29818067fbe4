// MPI's life in this process, and what the launcher said about it.
#pragma once

#include <optional>
#include <string>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// What the environment says of this process's place, before MPI is started.
struct LauncherEnvironment {
  /// A world size and the variable that holds it ("OMPI_COMM_WORLD_SIZE"), for each one set.
  std::vector<std::pair<std::string, int>> world_sizes;
  /// Likewise this process's rank, and its rank among those of its host.
  std::vector<std::pair<std::string, int>> ranks, local_ranks;
  /// True under mpirun or srun: MPI must be started.
  bool launched = false;
};
LauncherEnvironment launcher_environment();

/// Starts MPI, and ends it when destroyed. One at a time.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  /// All ranks, those of one node next to each other. Lives as long as the session.
  Communicator& world() { return *world_; }
  int launcher_rank() const { return launcher_rank_; }  ///< as MPI counted before the order by node
  int local_rank() const { return local_rank_; }        ///< among the ranks of this host
  int local_size() const { return local_size_; }

 private:
  int launcher_rank_ = 0, local_rank_ = 0, local_size_ = 1;
  CommPtr world_;
};

/// Ends all ranks of the job with this exit code; for a rank that fails while others may be waiting for it.
[[noreturn]] void abort_all_ranks(int exit_code);

/// "Open MPI v4.1.4"
std::string mpi_version();

}  // namespace frameshard
