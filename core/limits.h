// Limits that the system, a batch system or a container sets to this process.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace frameshard {

struct SharedMemory {
  int64_t total_bytes = -1, free_bytes = -1;  ///< -1: there is no /dev/shm
};

/// Bytes that may be locked into memory (RLIMIT_MEMLOCK); -1: unlimited.
int64_t locked_memory_limit();
/// Files and sockets that may be open at once (RLIMIT_NOFILE); -1: unlimited.
int64_t open_files_limit();
/// /dev/shm, through which ranks of a host exchange.
SharedMemory shared_memory();
/// The container's memory limit in bytes (control groups, version 2 or 1); -1: none.
int64_t container_memory_limit(const std::filesystem::path& cgroup = "/sys/fs/cgroup");
/// What it takes of it, without files that the kernel lets go of where memory is asked for.
int64_t container_memory_used(const std::filesystem::path& cgroup = "/sys/fs/cgroup");
/// True where an InfiniBand or RoCE device is.
bool has_rdma_device();
/// The cores that this process may run on: "0-3,8".
std::string core_list();
/// What the kernel's monotonic clock counts by ("tsc"); empty where it does not say.
std::string clock_source();
/// The same for processes that share a kernel and a network, and for no others: a host's identity beside its
/// name.
std::string host_identity();

}  // namespace frameshard
