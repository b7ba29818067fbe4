#include "launcher/ranks.h"

#include <sched.h>

#include "core/cuda_module.h"
#include "core/error.h"
#include "core/host.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

std::string host_and_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::string text = host_name() + ":";
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) text += std::to_string(cpu) + ",";
  }
  return text;
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

int cores_a_rank(Communicator& world) {
  const std::string mine = host_and_cores();
  const auto all = gather_texts(world, mine);
  const auto sharing = std::count(all.begin(), all.end(), mine);
  return std::max(1, allowed_cores() / int(sharing));
}

int local_device_count() {
  if (cuda()) return cuda()->device_count();
  return std::clamp(allowed_cores(), 2, 8);
}

}  // namespace frameshard
