#include "launcher/ranks.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include <fmt/ranges.h>

#include "core/affinity.h"
#include "core/cuda_module.h"
#include "core/error.h"
#include "core/host.h"
#include "core/log.h"
#include "core/pci.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

// Cores that this rank could use best; those of its GPU's NUMA node.
std::vector<int> nearest_cpus(int local_rank) {
  if (!cuda()) return allowed_cpus();
  const int device = local_rank % cuda()->device_count();
  return allowed_cpus_of_node(read_pci_device(cuda()->pci_address(device)).numa_node);
}

}  // namespace

void check_world_size(int size) {
  for (const auto& [variable, value] : launcher_environment().world_sizes) {
    if (value != size) {
      fail(ExitCode::disagree,
           "{} is {} but MPI started {} rank{}: the launcher is of another MPI than this program, or an old "
           "variable is "
           "left in the environment; start with the mpirun of {}, or unset {}",
           variable, value, size, size == 1 ? "" : "s", mpi_version(), variable);
    }
  }
}

void check_rank(int rank, int local_rank) {
  const LauncherEnvironment environment = launcher_environment();
  for (const auto& [variable, value] : environment.ranks) {
    if (value != rank) {
      fail(ExitCode::disagree,
           "{} is {} but this is MPI's rank {}: the launcher is of another MPI than this program; start with "
           "the "
           "mpirun of {}, or unset {}",
           variable, value, rank, mpi_version(), variable);
    }
  }
  for (const auto& [variable, value] : environment.local_ranks) {
    if (value == local_rank) continue;
    log::warning("{} is {} but MPI counts this as rank {} of its host; devices follow MPI", variable, value,
                 local_rank);
  }
}

void check_same_versions(const std::map<std::string, std::string>& mine, Communicator& world) {
  std::string text;
  for (const auto& [what, version] : mine)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", what, version);
  const auto all = gather_texts(world, text), hosts = gather_texts(world, host_name());
  if (std::all_of(all.begin(), all.end(), [&](auto& each) { return each == all[0]; })) return;
  std::map<std::string, std::vector<std::string>> who;
  for (size_t rank = 0; rank < all.size(); ++rank)
    who[all[rank]].push_back(fmt::format("{} (host {})", rank, hosts[rank]));
  std::string table;
  for (const auto& [versions, ranks] : who)
    table += fmt::format("\n  {}: ranks {}", versions, fmt::join(ranks, ", "));
  fail(ExitCode::disagree, "ranks run different versions; install the same on all hosts:{}", table);
}

void divide_cores(RankPlace& place, Communicator& world) {
  place.all_cpus = allowed_cpus();
  const std::vector<int> near = nearest_cpus(place.local_rank);
  const std::string mine = fmt::format("{}:{}", host_name(), fmt::join(near, ","));
  const auto all = gather_texts(world, mine);
  const auto sharing = int(std::count(all.begin(), all.end(), mine));
  const auto index = int(std::count(all.begin(), all.begin() + world.rank(), mine));
  // A container's quota may be less than the cores that are seen; then none of them is anybody's own.
  const int usable = std::min(int(near.size()), allowed_cores());
  place.cores = std::max(1, usable / sharing);
  place.own_cpus.clear();
  if (sharing == 1 || usable < int(near.size()) || sharing > usable) return;
  const auto neighbours = allowed_neighbours(share_of_cpus(near, index, sharing));
  if (neighbours.size() < place.all_cpus.size()) place.own_cpus = neighbours;
}

int host_number(const RankPlace& place, Communicator& world) {
  const auto firsts = gather_numbers(world, {place.local_rank == 0 ? 1.0 : 0.0});
  return int(std::count(firsts.begin(), firsts.begin() + world.rank() + 1, std::vector<double>{1.0})) - 1;
}

bool have_own_gpus(const RankPlace& place, Communicator& world) {
  const bool own = cuda() && place.local_size <= cuda()->device_count();
  return reduce_number(world, own, ReduceOp::min) != 0;
}

void note_ranks_met(const Communicator& world) {
  const char* file = std::getenv(ranks_met_variable);
  if (file && world.rank() == 0) std::ofstream(file).flush();
}

int omp_threads(int otherwise) {
  const char* omp = std::getenv("OMP_NUM_THREADS");
  return omp && std::atoi(omp) > 0 ? std::atoi(omp) : otherwise;
}

void stay_on_own_cpus(const RankPlace& place, int threads) {
  if (int(place.own_cpus.size()) >= threads) run_on_cpus(place.own_cpus);
}

void use_all_cpus(const RankPlace& place) {
  if (!place.own_cpus.empty()) run_on_cpus(place.all_cpus);
}

int local_device_count() {
  if (cuda()) return cuda()->device_count();
  return std::clamp(allowed_cores(), 2, 8);
}

}  // namespace frameshard
