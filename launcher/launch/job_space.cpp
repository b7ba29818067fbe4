#include "launcher/launch/job_space.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

// False where another launcher of the job has made it.
bool make_private(const std::filesystem::path& directory) {
  if (mkdir(directory.c_str(), 0700) == 0) return true;
  const int error = errno;
  struct stat info {};
  const bool ours = error == EEXIST && lstat(directory.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
                    info.st_uid == geteuid() && (info.st_mode & 077) == 0;
  if (!ours) {
    fail(ExitCode::io, "{} cannot be made for this job: {}", directory.string(), std::strerror(error));
  }
  return false;
}

constexpr std::string_view scratch_begin = "/tmp/frameshard-", shared_begin = "/dev/shm/frameshard-";
constexpr size_t id_length = 16;
constexpr const char* lock_name = "lock";

// The kernel lets go of a killed launcher's lock. A directory without a lock is one that is being made.
bool is_left_over(const fs::path& scratch) {
  const std::string name = scratch.string();
  if (!name.starts_with(scratch_begin) || name.size() != scratch_begin.size() + id_length) return false;
  struct stat info {};
  if (lstat(scratch.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid()) return false;
  const int lock = open((scratch / lock_name).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (lock < 0) return false;
  const bool free = flock(lock, LOCK_EX | LOCK_NB) == 0;
  close(lock);
  return free;
}

void remove_left_over() {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/tmp", ignored)) {
    if (!is_left_over(entry.path())) continue;
    const std::string id = entry.path().string().substr(scratch_begin.size());
    fs::remove_all(std::string(shared_begin) + id, ignored);
    fs::remove_all(entry.path(), ignored);
  }
}

// Another launcher of the job on this host has made it already, or this one does: locked before it has its
// name, so that nobody finds it free.
int make_lock(const fs::path& scratch) {
  const fs::path name = scratch / lock_name, made = fmt::format("{}.{}", name.string(), getpid());
  int lock = open(made.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
  bool locked = lock >= 0 && flock(lock, LOCK_SH | LOCK_NB) == 0;
  if (locked && link(made.c_str(), name.c_str()) != 0) {
    locked = false;
    if (errno == EEXIST) {
      close(lock);
      lock = open(name.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
      locked = lock >= 0 && flock(lock, LOCK_SH | LOCK_NB) == 0;
    }
  }
  const int error = errno;
  unlink(made.c_str());
  if (!locked) {
    if (lock >= 0) close(lock);
    fail(ExitCode::io, "{} cannot be locked for this job: {}", name.string(), std::strerror(error));
  }
  return lock;
}

}  // namespace

JobSpace::JobSpace(const std::string& id)
    : scratch_(std::string(scratch_begin) + id), shared_memory_(std::string(shared_begin) + id) {
  remove_left_over();
  std::vector<fs::path> made;
  try {
    for (const fs::path& directory : {scratch_, shared_memory_}) {
      if (make_private(directory)) made.push_back(directory);
    }
    lock_ = make_lock(scratch_);
  } catch (...) {
    std::error_code ignored;
    for (const fs::path& directory : made) fs::remove(directory, ignored);
    throw;
  }
}

JobSpace::~JobSpace() {
  close(lock_);
  std::error_code ignored;
  std::filesystem::remove_all(scratch_, ignored);
  std::filesystem::remove_all(shared_memory_, ignored);
}

}  // namespace frameshard
