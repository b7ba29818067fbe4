#include "launcher/doctor/limits_check.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "core/host.h"

namespace frameshard {
namespace {

constexpr int64_t least_open_files = 1024;
constexpr int64_t files_a_rank = 16;  // a socket or two to each other rank, by several transports
// Open MPI's shared memory of a rank, and NCCL's; half of it may already be taken by this very job.
constexpr int64_t shared_memory_a_rank = int64_t{64} << 20;
constexpr int64_t least_locked_memory = int64_t{64} << 20;

std::string plural(int count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

Finding check_open_files(const LimitFacts& facts, int world) {
  const int64_t needed = std::max(least_open_files, files_a_rank * world);
  if (facts.open_files >= 0 && facts.open_files < needed) {
    return change(
        "open files",
        fmt::format("{} at most, {} are needed for {}", facts.open_files, needed, plural(world, "rank")),
        fmt::format("ulimit -n {} before the start, in containers --ulimit nofile={}", needed, needed),
        Scope::rank);
  }
  return ok("open files", facts.open_files < 0 ? "unlimited" : fmt::format("{} at most", facts.open_files),
            Scope::rank);
}

Finding check_locked_memory(const LimitFacts& facts) {
  if (facts.locked_memory < 0) return ok("locked memory", "unlimited", Scope::rank);
  const std::string limit = format_bytes(double(facts.locked_memory)) + " at most";
  if (facts.rdma && facts.locked_memory < least_locked_memory) {
    return change("locked memory", limit + ", and the RDMA device here registers buffers in it",
                  "ulimit -l unlimited; for Slurm LimitMEMLOCK=infinity in slurmd's unit, in containers "
                  "--ulimit memlock=-1",
                  Scope::rank);
  }
  return ok("locked memory", limit + (facts.rdma ? "" : "; no RDMA device here needs more"), Scope::rank);
}

Finding check_cores(const LimitFacts& facts, int sharing) {
  const std::string seen =
      fmt::format("{} on {}", plural(sharing, "rank"), plural(facts.allowed_cores, "core"));
  if (sharing > facts.allowed_cores) {
    return change("cores", seen + ": they wait for each other",
                  "start at most a rank a core, or mpirun --bind-to none where more cores are free",
                  Scope::rank);
  }
  return ok("cores", seen, Scope::rank);
}

Finding check_threads(const LimitFacts& facts, int sharing) {
  const std::string& text = facts.omp_threads;
  const int share = std::max(1, facts.allowed_cores / std::max(1, sharing));
  if (text.empty())
    return ok("threads", fmt::format("{} a rank, the share of its cores", share), Scope::rank);
  int threads = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), threads);
  if (error != std::errc{} || end != text.data() + text.size() || threads < 1) {
    return change("threads", fmt::format("OMP_NUM_THREADS is \"{}\", no number of threads", text),
                  "unset OMP_NUM_THREADS", Scope::rank);
  }
  if (threads > share) {
    return change("threads",
                  fmt::format("OMP_NUM_THREADS is {}, and {} share {}", threads, plural(sharing, "rank"),
                              plural(facts.allowed_cores, "core")),
                  fmt::format("OMP_NUM_THREADS={}, or unset it", share), Scope::rank);
  }
  return ok("threads", fmt::format("OMP_NUM_THREADS is {}", threads), Scope::rank);
}

Finding check_shared_memory(const LimitFacts& facts, int ranks) {
  const SharedMemory& shm = facts.shared_memory;
  if (shm.total_bytes < 0) {
    return change("/dev/shm", "is missing: ranks of this host exchange through it",
                  "mount -t tmpfs tmpfs /dev/shm", Scope::host);
  }
  const int64_t needed = shared_memory_a_rank * ranks;
  const std::string size = format_bytes(double(shm.total_bytes)), want = format_bytes(double(needed));
  const std::string whom = fmt::format("{} of this host", plural(ranks, "rank"));
  if (shm.total_bytes < needed) {
    return change("/dev/shm", fmt::format("{} in all, {} are needed for {}", size, want, whom),
                  fmt::format("docker run --shm-size={}m or more; elsewhere mount -o remount,size=...",
                              std::max<int64_t>(1024, needed >> 20)),
                  Scope::host);
  }
  if (shm.free_bytes < needed / 2) {
    return change("/dev/shm",
                  fmt::format("{} free of {}, {} are needed for {}", format_bytes(double(shm.free_bytes)),
                              size, format_bytes(double(needed / 2)), whom),
                  "remove what dead jobs have left there (vader_segment.*, sm_segment.*, nccl-*)",
                  Scope::host);
  }
  return ok("/dev/shm", size, Scope::host);
}

Finding check_memory(const LimitFacts& facts) {
  const std::string seen = fmt::format("{} free of {}", format_bytes(double(facts.free_memory)),
                                       format_bytes(double(facts.memory)));
  if (facts.container_memory < 0) return ok("memory", seen + ", no container limit", Scope::host);
  return ok("memory",
            fmt::format("{}, container limit {}", seen, format_bytes(double(facts.container_memory))),
            Scope::host);
}

Finding check_clock(const LimitFacts& facts) {
  const std::string& source = facts.clock_source;
  if (source.empty()) return note("clock", "the kernel does not name its clock source", Scope::host);
  if (source == "hpet" || source == "acpi_pm" || source == "jiffies" || source == "refined-jiffies") {
    return note("clock", source + " is slow to read or coarse: measured times are", Scope::host);
  }
  return ok("clock", "monotonic by " + source, Scope::host);
}

}  // namespace

LimitFacts limit_facts() {
  const char* omp = std::getenv("OMP_NUM_THREADS");
  return {.locked_memory = locked_memory_limit(),
          .open_files = open_files_limit(),
          .shared_memory = shared_memory(),
          .container_memory = container_memory_limit(),
          .memory = host_memory_bytes(),
          .free_memory = host_available_bytes(),
          .rdma = has_rdma_device(),
          .clock_source = clock_source(),
          .allowed_cores = allowed_cores(),
          .omp_threads = omp ? omp : ""};
}

Findings check_rank_limits(const LimitFacts& facts, int world, int sharing) {
  return {check_cores(facts, sharing), check_threads(facts, sharing), check_open_files(facts, world),
          check_locked_memory(facts)};
}

Findings check_host_limits(const LimitFacts& facts, int ranks) {
  return {check_shared_memory(facts, ranks), check_memory(facts), check_clock(facts)};
}

}  // namespace frameshard
