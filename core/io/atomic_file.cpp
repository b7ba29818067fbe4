#include "core/io/atomic_file.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/error.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

std::string reason(int error) {
  return std::generic_category().message(error);
}

fs::path directory_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// What the reader of the message can do about `error`, empty when nothing general can be said.
std::string advice(const fs::path& directory, int error) {
  if (error == EDQUOT) return "; free some of your quota or set output.directory to another disk";
  if (error != ENOSPC) return "";
  std::string left = "an unknown number of";
  struct statvfs space {};
  if (statvfs(directory.c_str(), &space) == 0) {
    left = fmt::format("{}", static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize);
  }
  return fmt::format(
      "; {} bytes are left on that filesystem: free space or set output.directory to another disk", left);
}

std::string host_name() {
  std::array<char, 256> buffer{};
  if (gethostname(buffer.data(), buffer.size() - 1) != 0 || buffer[0] == '\0') return "localhost";
  std::string name = buffer.data();
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

std::string temporary_marker() {
  return ".tmp-" + host_name() + "-";
}

/// Reads a non-negative number that fills `text`; false when it is anything else.
bool parse_number(std::string_view text, long& value) {
  if (text.empty() || text.front() == '-') return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

/// The pid in the name of a temporary of this host, or -1 for every other name.
pid_t writer_of(const std::string& name) {
  const std::string marker = temporary_marker();
  const auto at = name.rfind(marker);
  if (name.front() != '.' || at == std::string::npos || at < 2) return -1;
  const std::string_view numbers = std::string_view(name).substr(at + marker.size());
  const auto dash = numbers.find('-');
  if (dash == std::string_view::npos) return -1;
  long pid = 0;
  long counter = 0;
  if (!parse_number(numbers.substr(0, dash), pid) || !parse_number(numbers.substr(dash + 1), counter))
    return -1;
  return std::in_range<pid_t>(pid) ? static_cast<pid_t>(pid) : -1;
}

/// Whether some process still holds the lock that every writer takes. The pid alone is not enough: containers
/// with one host name and one shared disk do not see each other's processes.
bool is_locked(const fs::path& temporary) {
  const int fd = open(temporary.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return true;  // not ours to judge, so not ours to remove
  const bool locked = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  close(fd);
  return locked;
}

bool is_stale(const fs::directory_entry& entry) {
  std::error_code ignored;
  if (entry.symlink_status(ignored).type() != fs::file_type::regular) return false;
  const pid_t pid = writer_of(entry.path().filename().string());
  if (pid <= 0) return false;
  const bool runs = kill(pid, 0) == 0 || errno != ESRCH;
  return !runs && !is_locked(entry.path());
}

}  // namespace

int sync_directory(const fs::path& directory) {
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno == EACCES ? 0 : errno;
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return error == EINVAL || error == ENOTSUP || error == ENOSYS ? 0 : error;
}

AtomicFile::AtomicFile(fs::path final_path) : final_path_(std::move(final_path)), owner_(getpid()) {
  std::error_code ignored;
  // Found out now, not by the rename at the end of a long run.
  if (!final_path_.has_filename() || fs::is_directory(final_path_, ignored)) {
    fail(ExitCode::io, "cannot create {}: {}", final_path_.string(), reason(EISDIR));
  }
  create_temporary();
}

void AtomicFile::create_temporary() {
  static std::atomic<unsigned> counter{0};
  const std::string stem = "." + final_path_.filename().string() + temporary_marker();
  do {
    temporary_ = final_path_.parent_path() / fmt::format("{}{}-{}", stem, owner_, counter++);
    fd_ = open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && (errno == EEXIST || errno == EINTR));  // EEXIST: left by an earlier owner of this pid
  if (fd_ < 0) fail_io("create", errno);
  // Tells remove_stale_temporaries that the writer lives. Filesystems without locks leave it to the pid.
  static_cast<void>(flock(fd_, LOCK_EX | LOCK_NB));
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close(fd_);
  // A forked child ends with a copy of this object; the file is its parent's.
  if (!committed_ && !temporary_.empty() && owner_ == getpid()) unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  require(fd_ >= 0, "{} was written to after its commit", final_path_.string());
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_io("write", written < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

void AtomicFile::finish_writing() {
  require(fd_ >= 0, "{} was committed twice", final_path_.string());
  if (fsync(fd_) != 0) fail_io("fsync", errno);
  // Network filesystems report some failed writes only here.
  if (close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail_io("close", errno);
}

void AtomicFile::sync_name() const {
  if (const int error = sync_directory(directory_of(final_path_)); error != 0)
    fail_io("fsync directory of", error);
}

void AtomicFile::commit() {
  finish_writing();
  if (rename(temporary_.c_str(), final_path_.c_str()) != 0) fail_io("rename", errno);
  committed_ = true;
  sync_name();
}

bool AtomicFile::commit_new() {
  finish_writing();
  if (link(temporary_.c_str(), final_path_.c_str()) != 0) {  // a plain rename would replace
    if (errno == EEXIST) return false;
    // Not all filesystems have links, and not all a rename that does not replace.
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_NOREPLACE) != 0) {
      if (errno == EEXIST) return false;
      fail_io("link", errno);
    }
    committed_ = true;
  }
  sync_name();
  return true;  // a link's temporary goes with this object
}

void AtomicFile::fail_io(const char* operation, int error) const {
  fail(ExitCode::io, "cannot {} {} (under its temporary name {}): {}{}", operation, final_path_.string(),
       temporary_.filename().string(), reason(error), advice(directory_of(final_path_), error));
}

void write_file_atomically(const fs::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

void remove_stale_temporaries(const fs::path& directory) {
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  if (error == std::errc::no_such_file_or_directory) return;
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    if (!is_stale(*entry)) continue;
    std::error_code removal;
    fs::remove(entry->path(), removal);  // gone already is no error: another rank may clean up as well
    if (removal) fail(ExitCode::io, "cannot remove stale {}: {}", entry->path().string(), removal.message());
  }
  if (error) fail(ExitCode::io, "cannot list directory {}: {}", directory.string(), error.message());
}

}  // namespace frameshard
