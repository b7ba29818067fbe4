#include "parallel/comm/mpi_session.h"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include <mpi.h>

#include "core/error.h"
#include "parallel/comm/mpi.h"

namespace frameshard {
namespace {

std::optional<int> number_in(const char* variable) {
  const char* text = std::getenv(variable);
  int value = 0;
  if (!text || std::from_chars(text, text + std::strlen(text), value).ec != std::errc{}) return std::nullopt;
  return value;
}

// Open MPI would end with a page of text, or start a world of one in each rank.
void check_slurm_speaks_pmix() {
  const int tasks = std::getenv("SLURM_STEP_ID") ? number_in("SLURM_NTASKS").value_or(1) : 1;
  if (tasks == 1 || std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMIX_RANK")) return;
  fail(ExitCode::disagree,
       "SLURM_NTASKS is {} but srun started without PMIx, so that each rank would be a world of its own; add "
       "--mpi=pmix, or unset SLURM_STEP_ID where no srun is meant",
       tasks);
}

}  // namespace

LauncherEnvironment launcher_environment() {
  LauncherEnvironment env;
  // SLURM_NTASKS is also set for a batch script itself, which is no rank: only a step has a SLURM_PROCID and
  // a step id, and below mpirun the step is the daemons'.
  const bool under_mpirun = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  const bool slurm_step = !under_mpirun && std::getenv("SLURM_STEP_ID") && std::getenv("SLURM_PROCID");
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS", "WORLD_SIZE"}) {
    if (std::string(variable) == "SLURM_NTASKS" && !slurm_step) continue;
    if (auto value = number_in(variable)) env.world_sizes.emplace_back(variable, *value);
  }
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
    if (std::string(variable) == "SLURM_PROCID" && !slurm_step) continue;
    if (auto value = number_in(variable)) env.ranks.emplace_back(variable, *value);
  }
  for (const char* variable : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}) {
    if (std::string(variable) == "SLURM_LOCALID" && !slurm_step) continue;
    if (auto value = number_in(variable)) env.local_ranks.emplace_back(variable, *value);
  }
  env.launched = under_mpirun || std::getenv("PMIX_RANK") != nullptr || slurm_step;
  return env;
}

MpiSession::MpiSession() {
  check_slurm_speaks_pmix();
  int provided = 0;
  // MULTIPLE: a mailbox answers in a thread of its own.
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    fail(ExitCode::unavailable,
         "MPI could not be started; is this Open MPI the one that mpirun belongs to (frameshard --version)?");
  }
  if (provided < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    fail(ExitCode::unavailable,
         "{} gives thread level {} and MPI_THREAD_MULTIPLE ({}) is needed; use an MPI that is built with it "
         "(Open MPI: --enable-mpi-thread-multiple, the default since version 3)",
         mpi_version(), provided, MPI_THREAD_MULTIPLE);
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm local;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);
  MPI_Comm_rank(local, &local_rank_);
  MPI_Comm_size(local, &local_size_);
  // Ranks of a node follow each other, however the launcher dealt them out, so that the busiest exchanges
  // stay inside it: ordered by the first rank of their node, then as they were.
  MPI_Comm_rank(MPI_COMM_WORLD, &launcher_rank_);
  int first = launcher_rank_;
  MPI_Bcast(&first, 1, MPI_INT, 0, local);
  MPI_Comm_free(&local);
  MPI_Comm ordered;
  MPI_Comm_split(MPI_COMM_WORLD, 0, first, &ordered);
  world_ = make_mpi_communicator(ordered, "world");
  MPI_Comm_free(&ordered);
}

MpiSession::~MpiSession() {
  world_.reset();
  MPI_Finalize();
}

void abort_all_ranks(int exit_code) {
  int started = 0, ended = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&ended);
  if (started && !ended) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string whole(text, size_t(length));
  return whole.substr(0, whole.find_first_of(",\n"));
}

}  // namespace frameshard
