// Devices by name, and the few things that differ between a CPU and a GPU.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

namespace frameshard {

struct DeviceInfo {
  at::Device device;
  std::string name;
  int64_t total_bytes;
};

/// Every device of this process: its GPUs if there are any, then the CPU.
std::vector<DeviceInfo> list_devices();

/// The device of a rank: `wanted` is auto, cpu or cuda (78 where there is no GPU); GPUs are dealt out by
/// local rank.
at::Device device_for_rank(const std::string& wanted, int local_rank);

/// The element type for `wanted` (auto, float32, bfloat16, float16): auto is float32 on a CPU and bfloat16 on
/// CUDA.
at::ScalarType resolve_dtype(const std::string& wanted, const at::Device& device);
/// The word for it: "bfloat16".
std::string dtype_name(at::ScalarType dtype);

/// Makes a device this thread's, and starts CUDA where it is a GPU: memory can be asked about from then on.
void use_device(const at::Device& device);

/// All memory of a GPU, or of this host (core/host.h).
int64_t total_memory(const at::Device& device);
/// What of it is free now.
int64_t free_memory(const at::Device& device);
/// Waits until the device has done what this thread gave it on its current stream; nothing to wait for on a
/// CPU.
void synchronize(const at::Device& device);
/// The memory taken now, in bytes: allocated on a GPU, resident on a CPU, where a page of weights that ranks
/// share counts in parts.
int64_t memory_in_use(const at::Device& device);
/// The share of time in which a GPU had work lately, 0 to 1; nothing for a CPU, and where it is not known.
std::optional<double> gpu_utilisation(const at::Device& device);
/// The most memory taken so far, in bytes, likewise; shared pages as they are divided now. reset_peak_memory
/// starts anew.
int64_t peak_memory(const at::Device& device);
void reset_peak_memory(const at::Device& device);
/// Gives cached device memory back.
void release_cached_memory(const at::Device& device);

}  // namespace frameshard
