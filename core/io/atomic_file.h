// Files that are either complete under their final name or not there at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace frameshard {

/// A file that appears under its final name only when complete: it is written under a temporary name in the
/// same directory (`.<final name>.tmp-<host>-<pid>-<counter>`), fsynced and renamed, and the directory is
/// fsynced. Every failure is ExitCode::io, names the path, the operation and the system's reason, and for a
/// full disk the bytes still free. Not thread-safe.
class AtomicFile {
 public:
  /// Creates the empty temporary file. The directory must exist; an older file under the final name stays
  /// untouched until commit().
  explicit AtomicFile(std::filesystem::path final_path);

  /// Removes the temporary when not committed.
  ~AtomicFile();

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// The path that is being written, valid until commit().
  const std::filesystem::path& temporary() const { return temporary_; }

  /// Writes all bytes at the file position, or fails.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);

  /// The open descriptor (read and write), for seeking; -1 after commit(). It stays owned by this object.
  int fd() const { return fd_; }

  /// Makes the content durable and gives the file its final name, replacing an older one. Call it once;
  /// nothing can be written afterwards.
  void commit();
  /// The same, but never replaces: false where the name is taken, and nothing is left then.
  [[nodiscard]] bool commit_new();

 private:
  void create_temporary();
  void finish_writing();
  void sync_name() const;
  [[noreturn]] void fail_io(const char* operation, int error) const;

  std::filesystem::path final_path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  pid_t owner_ = 0;
  bool committed_ = false;
};

/// Replaces the file at `path` by `contents`, all or nothing. Fails with ExitCode::io.
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// Makes a rename in `directory` durable; 0 or an errno. Filesystems that cannot sync a directory, and
/// directories that may be written but not read, are as durable as they can be.
int sync_directory(const std::filesystem::path& directory);

/// Removes the temporaries in `directory` that a killed process left: those of this host whose pid no longer
/// runs and that no process holds open. A directory that is not there has none. Fails with ExitCode::io.
void remove_stale_temporaries(const std::filesystem::path& directory);

}  // namespace frameshard
