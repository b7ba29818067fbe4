#include "core/shared_memory.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <sstream>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/host.h"

namespace frameshard {
namespace {

std::atomic<int> blocks{0};

struct stat status_of(int file) {
  struct stat status {};
  ::fstat(file, &status);
  return status;
}

}  // namespace

SharedMemory::SharedMemory(int file, int64_t bytes) : file_(file), bytes_(bytes) {
  void* at = ::mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) {
    const std::string why = std::strerror(errno);
    ::close(file);
    fail(ExitCode::out_of_memory, "{} of shared memory cannot be mapped: {}", format_bytes(double(bytes)),
         why);
  }
  ::madvise(at, size_t(bytes), MADV_HUGEPAGE);  // where the system has them for shared memory
  data_ = static_cast<char*>(at);
  ++blocks;
}

SharedMemory::~SharedMemory() {
  close_address();
  ::munmap(data_, size_t(bytes_));
  --blocks;
}

// An anonymous file of the kernel's own, and not one in /dev/shm: that is often small in a container, and a
// page that does not fit there any more ends the process with SIGBUS. This one has no limit but the memory's,
// as private pages have, so that nothing need be reserved.
std::shared_ptr<SharedMemory> SharedMemory::create(int64_t bytes) {
  rlimit limit{};  // a larger file would end the process
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < rlim_t(bytes)) {
    fail(ExitCode::out_of_memory, "{} of shared memory are more than the largest file may have (ulimit -f)",
         format_bytes(double(bytes)));
  }
  const int file = ::memfd_create("frameshard", MFD_CLOEXEC);
  if (file < 0) fail(ExitCode::out_of_memory, "no shared memory: {}", std::strerror(errno));
  if (::ftruncate(file, off_t(bytes)) != 0) {
    const std::string why = std::strerror(errno);
    ::close(file);
    fail(ExitCode::out_of_memory, "{} of shared memory: {}", format_bytes(double(bytes)), why);
  }
  return std::shared_ptr<SharedMemory>(new SharedMemory(file, bytes));
}

std::string SharedMemory::address() const {
  const auto status = status_of(file_);
  return fmt::format("/proc/{}/fd/{} {} {} {}", ::getpid(), file_, status.st_dev, status.st_ino, bytes_);
}

std::shared_ptr<SharedMemory> SharedMemory::open(const std::string& address) {
  std::istringstream parts(address);
  std::string path;
  uint64_t device = 0, inode = 0;
  int64_t bytes = 0;
  parts >> path >> device >> inode >> bytes;
  require(bool(parts), "\"{}\" is no address of shared memory", address);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    fail(ExitCode::unavailable, "shared memory of another process: {}: {}", path, std::strerror(errno));
  }
  // In a container, a process of this number may be another one.
  const auto status = status_of(file);
  if (status.st_dev != device || status.st_ino != inode || status.st_size != bytes) {
    ::close(file);
    fail(ExitCode::unavailable, "shared memory of another process: {} is something else here", path);
  }
  return std::shared_ptr<SharedMemory>(new SharedMemory(file, bytes));
}

void SharedMemory::close_address() {
  if (file_ >= 0) ::close(file_);
  file_ = -1;
}

void SharedMemory::protect() {
  ::mprotect(data_, size_t(bytes_), PROT_READ);
}

bool SharedMemory::in_use() {
  return blocks > 0;
}

}  // namespace frameshard
