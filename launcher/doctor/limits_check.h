// Limits that stop or slow a job: locked memory, open files, /dev/shm, cores, memory; and the clock.
#pragma once

#include <cstdint>

#include "core/limits.h"
#include "launcher/doctor/finding.h"

namespace frameshard {

/// Bytes and counts of one process; -1: unlimited, or not there.
struct LimitFacts {
  int64_t locked_memory = -1, open_files = -1;
  SharedMemory shared_memory;
  int64_t container_memory = -1;
  int64_t memory = 0, free_memory = 0;
  bool rdma = false;
  std::string clock_source;
  int allowed_cores = 1;
  std::string omp_threads;  ///< OMP_NUM_THREADS; empty: unset
};

/// Of this process.
LimitFacts limit_facts();

/// Limits of one process. `world`: ranks of the job. `sharing`: ranks of this host with the same cores.
Findings check_rank_limits(const LimitFacts& facts, int world, int sharing);
/// Limits that the `ranks` ranks of a host share, and its clock.
Findings check_host_limits(const LimitFacts& facts, int ranks);

}  // namespace frameshard
