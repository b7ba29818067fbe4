#include "core/device.h"

#include <chrono>
#include <mutex>

#include <ATen/Context.h>
#include <malloc.h>

#include "core/cuda_module.h"
#include "core/error.h"
#include "core/host.h"
#include "core/shared_memory.h"

namespace frameshard {

namespace {

// Asking costs a look at all pages, which with tens of GB takes up to a second: the answer is kept for 20
// times as long as it took.
int64_t elsewhere_bytes() {
  using Clock = std::chrono::steady_clock;
  static std::mutex mutex;
  static Clock::time_point asked_again;
  static int64_t bytes = 0;
  if (!SharedMemory::in_use()) return 0;
  const std::lock_guard lock(mutex);
  const auto begin = Clock::now();
  if (begin < asked_again) return bytes;
  bytes = resident_elsewhere_bytes();
  asked_again = Clock::now() + 20 * (Clock::now() - begin);
  return bytes;
}

}  // namespace

std::vector<DeviceInfo> list_devices() {
  std::vector<DeviceInfo> devices;
  for (int i = 0; cuda() && i < cuda()->device_count(); ++i) {
    const at::Device device(at::kCUDA, c10::DeviceIndex(i));
    devices.push_back({device, cuda()->device_name(i), total_memory(device)});
  }
  const std::string cpu = fmt::format("{}, {} cores", cpu_name(), allowed_cores());
  devices.push_back({at::Device(at::kCPU), cpu, host_memory_bytes()});
  return devices;
}

at::Device device_for_rank(const std::string& wanted, int local_rank) {
  if (wanted == "cuda" && !cuda()) {
    fail(ExitCode::config, "infer.device is cuda, but {}; set infer.device=cpu", why_no_cuda());
  }
  if (wanted == "cpu" || !cuda()) return at::Device(at::kCPU);
  return at::Device(at::kCUDA, c10::DeviceIndex(local_rank % cuda()->device_count()));
}

at::ScalarType resolve_dtype(const std::string& wanted, const at::Device& device) {
  if (wanted == "float32") return at::kFloat;
  if (wanted == "bfloat16") return at::kBFloat16;
  if (wanted == "float16") return at::kHalf;
  require(wanted == "auto", "unknown dtype {}", wanted);
  return device.is_cuda() ? at::kBFloat16 : at::kFloat;
}

std::string dtype_name(at::ScalarType dtype) {
  for (const char* word : {"float32", "bfloat16", "float16"}) {
    if (resolve_dtype(word, at::kCPU) == dtype) return word;
  }
  return c10::toString(dtype);
}

void use_device(const at::Device& device) {
  if (!device.is_cuda()) return;
  at::globalContext().lazyInitDevice(at::kCUDA);
  cuda()->set_device(device.index());
}

int64_t total_memory(const at::Device& device) {
  return device.is_cuda() ? cuda()->total_memory(device.index()) : host_memory_bytes();
}

int64_t free_memory(const at::Device& device) {
  return device.is_cuda() ? cuda()->free_memory(device.index()) : host_available_bytes();
}

void synchronize(const at::Device& device) {
  if (device.is_cuda()) cuda()->synchronize(device.index());
}

int64_t memory_in_use(const at::Device& device) {
  return device.is_cuda() ? cuda()->allocated(device.index()) : resident_bytes() - elsewhere_bytes();
}

std::optional<double> gpu_utilisation(const at::Device& device) {
  const double share = device.is_cuda() ? cuda()->utilisation(device.index()) : -1;
  return share < 0 ? std::nullopt : std::optional(share);
}

int64_t peak_memory(const at::Device& device) {
  return device.is_cuda() ? cuda()->peak_allocated(device.index())
                          : peak_resident_bytes() - elsewhere_bytes();
}

void reset_peak_memory(const at::Device& device) {
  if (device.is_cuda()) {
    cuda()->reset_peak(device.index());
  } else {
    reset_peak_resident();
  }
}

void release_cached_memory(const at::Device& device) {
  if (device.is_cuda()) {
    cuda()->empty_cache();
  } else {
    malloc_trim(0);
  }
}

}  // namespace frameshard
