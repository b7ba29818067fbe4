#include "launcher/launch/job_space.h"

#include <cerrno>
#include <cstring>

#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace frameshard {
namespace {

void make_private(const std::filesystem::path& directory) {
  if (mkdir(directory.c_str(), 0700) == 0) return;
  const int error = errno;
  struct stat info {};
  const bool ours = error == EEXIST && lstat(directory.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
                    info.st_uid == geteuid() && (info.st_mode & 077) == 0;
  if (!ours) {
    fail(ExitCode::io, "{} cannot be made for this job: {}", directory.string(), std::strerror(error));
  }
}

}  // namespace

JobSpace::JobSpace(const std::string& id)
    : scratch_("/tmp/frameshard-" + id), shared_memory_("/dev/shm/frameshard-" + id) {
  make_private(scratch_);
  make_private(shared_memory_);
}

JobSpace::~JobSpace() {
  std::error_code ignored;
  std::filesystem::remove_all(scratch_, ignored);
  std::filesystem::remove_all(shared_memory_, ignored);
}

}  // namespace frameshard
