#include "parallel/comm/nccl_buffers.h"

#include <cuda_runtime_api.h>

#include "core/log.h"
#include "parallel/comm/nccl.h"

namespace frameshard {
namespace {

constexpr int64_t mebibyte = 1 << 20;
constexpr int64_t least_bytes = mebibyte;
constexpr int64_t granularity = 2 * mebibyte;  // in which the driver maps memory

}  // namespace

NcclBuffers::~NcclBuffers() {
  if (!buffers_.empty()) cudaDeviceSynchronize();  // kernels may still read what was given back
  for (const auto& buffer : buffers_) ncclMemFree(buffer->memory);
}

at::Tensor NcclBuffers::take(int64_t elements, const at::TensorOptions& options) {
  const int64_t bytes = elements * int64_t(options.dtype().itemsize());
  const std::lock_guard lock(mutex_);
  Buffer* buffer = bytes < least_bytes ? nullptr : find_free(bytes);
  if (!buffer && bytes >= least_bytes) buffer = add(bytes);
  if (!buffer) return at::empty({elements}, options);
  buffer->taken = true;
  auto release = [self = shared_from_this()](const void* memory) { self->give_back(memory); };
  return at::from_blob(buffer->memory, {elements}, std::move(release), options);
}

// The smallest one that suffices.
NcclBuffers::Buffer* NcclBuffers::find_free(int64_t bytes) {
  Buffer* best = nullptr;
  for (const auto& buffer : buffers_) {
    const bool fits = !buffer->taken && buffer->bytes >= bytes;
    if (fits && (!best || buffer->bytes < best->bytes)) best = buffer.get();
  }
  return best;
}

NcclBuffers::Buffer* NcclBuffers::add(int64_t bytes) {
  const int64_t rounded = (bytes + granularity - 1) / granularity * granularity;
  if (failed_ || !comm_ || total_bytes_ + rounded > most_registered_bytes) return nullptr;
  auto buffer = std::make_unique<Buffer>();
  buffer->bytes = rounded;
  ncclResult_t status = ncclMemAlloc(&buffer->memory, size_t(rounded));
  if (status == ncclSuccess) {
    status = ncclCommRegister(comm_, buffer->memory, size_t(rounded), &buffer->handle);
    if (status != ncclSuccess) ncclMemFree(buffer->memory);
  }
  if (status != ncclSuccess) {
    failed_ = true;
    cudaGetLastError();  // what NCCL was refused is no failure of the next kernel
    log::debug("NCCL on {} registers no memory and copies instead: {}", group_, ncclGetErrorString(status));
    return nullptr;
  }
  total_bytes_ += rounded;
  return buffers_.emplace_back(std::move(buffer)).get();
}

void NcclBuffers::give_back(const void* memory) {
  const std::lock_guard lock(mutex_);
  for (const auto& buffer : buffers_) {
    if (buffer->memory == memory) buffer->taken = false;
  }
}

void NcclBuffers::close() {
  const std::lock_guard lock(mutex_);
  for (const auto& buffer : buffers_) ncclCommDeregister(comm_, buffer->handle);
  comm_ = nullptr;
}

void NcclBuffers::forget() {
  const std::lock_guard lock(mutex_);
  comm_ = nullptr;
}

}  // namespace frameshard
