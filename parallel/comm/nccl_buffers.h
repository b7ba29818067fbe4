// Memory that NCCL has registered: it reads and writes such memory from other GPUs and network cards without
// copies through buffers of its own.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include <ATen/ATen.h>
#include <nccl.h>

namespace frameshard {

/// The registered buffers of one group, used again and again. Each is used on the current stream alone, or by
/// work that this stream waits for before the tensor is released: what takes it next comes after on the same
/// stream. LibTorch's allocator could hold such memory too (a MemPool over ncclMemAlloc), but its segments
/// would have to be registered as they come and go; a few buffers of our own are simpler.
class NcclBuffers : public std::enable_shared_from_this<NcclBuffers> {
 public:
  NcclBuffers(ncclComm_t comm, const std::string& group) : comm_(comm), group_(group) {}
  NcclBuffers(const NcclBuffers&) = delete;
  NcclBuffers& operator=(const NcclBuffers&) = delete;
  ~NcclBuffers();

  /// Uninitialised, [elements]. Memory of LibTorch's where it is too little to matter, where NCCL does not
  /// register any, and beyond 512 MiB for the group, which nothing else can use and no plan counts.
  at::Tensor take(int64_t elements, const at::TensorOptions& options);
  /// Before the group ends. Tensors may outlive it.
  void close();
  /// After the group was aborted: its registrations are gone.
  void forget();

 private:
  struct Buffer {
    void* memory = nullptr;
    void* handle = nullptr;  // NCCL's, of the registration
    int64_t bytes = 0;
    bool taken = false;
  };
  Buffer* find_free(int64_t bytes);
  Buffer* add(int64_t bytes);
  void give_back(const void* memory);

  std::mutex mutex_;  // a backward pass releases tensors on threads of its own
  ncclComm_t comm_;
  std::string group_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  int64_t total_bytes_ = 0;
  bool failed_ = false;
};

}  // namespace frameshard
