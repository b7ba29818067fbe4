#include "core/limits.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <sys/resource.h>
#include <sys/statvfs.h>

namespace frameshard {
namespace {

namespace fs = std::filesystem;

int64_t limit_of(decltype(RLIMIT_NOFILE) resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return -1;
  return int64_t(limit.rlim_cur);
}

std::string read_line(const char* file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

int64_t read_number(const fs::path& file) {
  std::ifstream in(file);
  int64_t number = -1;
  return in >> number ? number : -1;
}

}  // namespace

int64_t locked_memory_limit() {
  return limit_of(RLIMIT_MEMLOCK);
}

int64_t open_files_limit() {
  return limit_of(RLIMIT_NOFILE);
}

SharedMemory shared_memory() {
  struct statvfs info {};
  if (statvfs("/dev/shm", &info) != 0) return {};
  const auto block = int64_t(info.f_frsize);
  return {.total_bytes = int64_t(info.f_blocks) * block, .free_bytes = int64_t(info.f_bavail) * block};
}

int64_t container_memory_limit(const fs::path& cgroup) {
  for (const char* file : {"memory.max", "memory/memory.limit_in_bytes"}) {
    // Version 2 says "max" where there is no limit, version 1 a number near 2^63.
    const int64_t bytes = read_number(cgroup / file);
    if (bytes > 0 && bytes < int64_t{1} << 60) return bytes;
  }
  return -1;
}

int64_t container_memory_used(const fs::path& cgroup) {
  const bool second = fs::exists(cgroup / "memory.current");
  const int64_t used = read_number(cgroup / (second ? "memory.current" : "memory/memory.usage_in_bytes"));
  std::ifstream in(cgroup / (second ? "memory.stat" : "memory/memory.stat"));
  std::string name;
  int64_t bytes = 0, files = 0;
  while (in >> name >> bytes) {
    if (name == (second ? "inactive_file" : "total_inactive_file") ||
        name == (second ? "active_file" : "total_active_file")) {
      files += bytes;
    }
  }
  return std::max<int64_t>(0, used - files);
}

bool has_rdma_device() {
  std::error_code missing;
  const std::filesystem::directory_iterator devices("/sys/class/infiniband", missing);
  return !missing && devices != std::filesystem::directory_iterator{};
}

std::string core_list() {
  std::ifstream in("/proc/self/status");
  const std::string name = "Cpus_allowed_list:\t";
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(name)) return line.substr(name.size());
  }
  return "";
}

std::string clock_source() {
  return read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource");
}

std::string host_identity() {
  std::error_code ignored;
  const auto network = std::filesystem::read_symlink("/proc/self/ns/net", ignored);
  return read_line("/proc/sys/kernel/random/boot_id") + " " + network.string();
}

}  // namespace frameshard
