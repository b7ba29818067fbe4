// Memory that processes of one host share.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace frameshard {

/// A block of zeros that several processes see. It has no name in any file system: the kernel frees it with
/// the last process that has it, however they end.
class SharedMemory {
 public:
  /// 71 where the system has none to give, or knows no such memory.
  static std::shared_ptr<SharedMemory> create(int64_t bytes);
  /// The block of another process, by its address(). 69 where this process may not or cannot open it: another
  /// user's, or in a container that does not see the other's processes.
  static std::shared_ptr<SharedMemory> open(const std::string& address);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  /// For open() in other processes, until close_address().
  std::string address() const;
  void close_address();
  /// Writing here ends this process from now on: it would change what the others have.
  void protect();

  /// Whether this process has any.
  static bool in_use();

 private:
  SharedMemory(int file, int64_t bytes);

  int file_;
  int64_t bytes_;
  char* data_ = nullptr;
};

}  // namespace frameshard
