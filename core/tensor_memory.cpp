#include "core/tensor_memory.h"

#include <atomic>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include "core/device.h"
#include "core/error.h"

namespace frameshard {
namespace {

std::atomic<int64_t> bytes_now = 0, bytes_peak = 0;

void add(int64_t bytes) {
  const int64_t now = bytes_now += bytes;
  int64_t peak = bytes_peak;
  while (now > peak && !bytes_peak.compare_exchange_weak(peak, now)) {
  }
}

// The allocator that was there before, with its blocks counted by the size that the C library knows: a block
// is its own context, as LibTorch wants it of an allocator that also gives plain pointers.
class CountingAllocator final : public at::Allocator {
 public:
  explicit CountingAllocator(at::Allocator* inner) : inner_(inner) { free_inner = inner->raw_deleter(); }

  at::DataPtr allocate(size_t bytes) override {
    at::DataPtr block = inner_->allocate(bytes);
    void* data = block.get();
    require(data == block.get_context() && free_inner, "the CPU's allocator gives no plain blocks");
    block.release_context();
    add(int64_t(malloc_usable_size(data)));
    return {data, data, &release, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void release(void* data) {
    if (!data) return;
    bytes_now -= int64_t(malloc_usable_size(data));
    free_inner(data);
  }

  static inline at::DeleterFnPtr free_inner = nullptr;
  at::Allocator* inner_;
};

}  // namespace

void count_cpu_tensors() {
  static CountingAllocator allocator(c10::GetCPUAllocator());
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}

int64_t tensor_bytes(const at::Device& device) {
  return device.is_cuda() ? memory_in_use(device) : bytes_now.load();
}

int64_t peak_tensor_bytes(const at::Device& device) {
  return device.is_cuda() ? peak_memory(device) : bytes_peak.load();
}

void reset_peak_tensor_bytes(const at::Device& device) {
  if (device.is_cuda()) {
    reset_peak_memory(device);
  } else {
    bytes_peak = bytes_now.load();
  }
}

}  // namespace frameshard
