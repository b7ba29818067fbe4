// What tensors take on a device, without the buffers of libraries and what the C library keeps: on a GPU
// LibTorch's allocator counts; on a CPU this does.
#pragma once

#include <cstdint>

#include <ATen/ATen.h>

namespace frameshard {

/// From now on every CPU tensor is counted. Once a process, before other threads make tensors.
void count_cpu_tensors();

/// Bytes now, and the most since the last reset.
int64_t tensor_bytes(const at::Device& device);
int64_t peak_tensor_bytes(const at::Device& device);
void reset_peak_tensor_bytes(const at::Device& device);

}  // namespace frameshard
