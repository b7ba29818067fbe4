// What both forms of `run` do: alone (run.cpp) and as one of several processes (run_mpi.cpp).
#pragma once

#include <functional>
#include <memory>

#include "launcher/commands/commands.h"
#include "launcher/generate.h"
#include "parallel/comm/mpi_session.h"

namespace frameshard {

/// What the configuration says of devices, made to fit this machine; warns of what is changed. Throws 78
/// where it cannot be.
void settle_here(RunConfig& config);

/// The paths of the videos on stdout, and nothing else.
void print_videos(const Generated& made);
/// The last line, where videos of a list failed.
void print_failures(const Generated& made);

/// Rank 0 prints it, and warns where the ranks have many more threads than there are cores.
void print_plan(const RunPlan& plan, const Job& job, int rank);

ObservedRank observed(const Job& job, const RankPlace& place, const RunPlan& plan, int rank);
/// Null where --prometheus is not given.
std::unique_ptr<Exporter> exporter_of(const RunOptions& options);

/// Begins MPI, calls `rank` as one of its ranks and returns its exit code, or that of Ended
/// (launcher/settle.h).
int as_mpi_rank(const std::function<int(MpiSession& mpi)>& rank);

/// What differs between hosts, and must be the same in the plan of all ranks; divides the cores. Throws Ended
/// (launcher/settle.h). Collective.
PlanMachine describe_together(const Job& job, RankPlace& place, Communicator& world);

/// One rank of several processes, under mpirun or srun.
int run_under_mpi(const RunOptions& options);

}  // namespace frameshard
