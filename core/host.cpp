#include "core/host.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <sstream>

#include <fmt/format.h>
#include <malloc.h>
#include <sched.h>
#include <unistd.h>

#include "core/limits.h"

namespace frameshard {
namespace {

// Value in bytes of a "Name:  123 kB" line of a /proc file; -1 where it is missing.
int64_t proc_kilobytes(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return -1;
}

std::string first_line(const char* file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

}  // namespace

std::string host_name() {
  char name[256] = "unknown";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

int allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  std::istringstream quota(first_line("/sys/fs/cgroup/cpu.max"));  // "200000 100000" or "max 100000"
  double limit = 0, period = 0;
  if (quota >> limit >> period && period > 0)
    cores = std::min(cores, std::max(1, int(std::ceil(limit / period))));
  return std::max(1, cores);
}

int64_t host_memory_bytes() {
  const int64_t total = proc_kilobytes("/proc/meminfo", "MemTotal"), limit = container_memory_limit();
  return limit < 0 ? total : std::min(total, limit);
}

int64_t host_available_bytes() {
  const int64_t available = proc_kilobytes("/proc/meminfo", "MemAvailable"), limit = container_memory_limit();
  return limit < 0 ? available : std::clamp<int64_t>(limit - container_memory_used(), 0, available);
}

int64_t resident_bytes() {
  return proc_kilobytes("/proc/self/status", "VmRSS");
}

int64_t peak_resident_bytes() {
  return proc_kilobytes("/proc/self/status", "VmHWM");
}

int64_t resident_elsewhere_bytes() {
  const int64_t here = proc_kilobytes("/proc/self/smaps_rollup", "Pss_Shmem"),
                whole = proc_kilobytes("/proc/self/status", "RssShmem");
  return here < 0 ? 0 : std::max<int64_t>(0, whole - here);
}

double process_seconds() {
  // Field 22, after the name in parentheses: when it was started, in ticks since the system was.
  std::string stat = first_line("/proc/self/stat");
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double ticks = 0;
  fields >> ticks;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return double(now.tv_sec) + double(now.tv_nsec) * 1e-9 - ticks / double(sysconf(_SC_CLK_TCK));
}

bool reset_peak_resident() {
  std::ofstream out("/proc/self/clear_refs");
  out << "5";
  return bool(out.flush());
}

std::string format_bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int unit = 0;
  while (std::abs(bytes) >= 1024 && unit < 5) bytes /= 1024, ++unit;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, units[unit]);
}

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

}  // namespace frameshard
