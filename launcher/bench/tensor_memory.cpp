#include "launcher/bench/tensor_memory.h"

#include <atomic>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include "core/device.h"

namespace frameshard {
namespace {

std::atomic<int64_t> bytes_now = 0, bytes_peak = 0;

void add(int64_t bytes) {
  const int64_t now = bytes_now += bytes;
  int64_t peak = bytes_peak;
  while (now > peak && !bytes_peak.compare_exchange_weak(peak, now)) {
  }
}

// A block of the allocator that was there before, and its size.
struct Block {
  at::DataPtr data;
  int64_t bytes;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  bytes_now -= block->bytes;
  delete block;
}

class CountingAllocator final : public at::Allocator {
 public:
  explicit CountingAllocator(at::Allocator* inner) : inner_(inner) {}

  at::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{inner_->allocate(bytes), int64_t(bytes)};
    add(block->bytes);
    return {block->data.get(), block, &release, at::Device(at::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
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
