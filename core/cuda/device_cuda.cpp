// The functions of core/cuda_module.h, compiled into the module that is loaded where a GPU is.
#include <ATen/Version.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include "core/cuda/nvml.h"
#include "core/cuda_module.h"
#include "core/error.h"

namespace frameshard {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    fail(ExitCode::internal, "CUDA: {} failed: {}", what, cudaGetErrorString(status));
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void set_device(int device) {
  check(cudaSetDevice(device), "choosing a device");
}

void synchronize(int device) {
  const int before = c10::cuda::current_device();
  set_device(device);
  check(cudaDeviceSynchronize(), "waiting for a device");
  set_device(before);
}

void memory(int device, int64_t* free_bytes, int64_t* total_bytes) {
  const int before = c10::cuda::current_device();
  set_device(device);
  size_t free_now = 0, total = 0;
  check(cudaMemGetInfo(&free_now, &total), "asking for free memory");
  *free_bytes = int64_t(free_now), *total_bytes = int64_t(total);
  set_device(before);
}

int64_t peak_allocated(int device) {
  using c10::CachingAllocator::StatType;
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(c10::DeviceIndex(device));
  return stats.allocated_bytes[size_t(StatType::AGGREGATE)].peak;
}

void reset_peak(int device) {
  c10::cuda::CUDACachingAllocator::resetPeakStats(c10::DeviceIndex(device));
}

void empty_cache() {
  c10::cuda::CUDACachingAllocator::emptyCache();
}

std::string device_name(int device) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "reading a device's properties");
  return properties.name;
}

std::string versions() {
  int runtime = 0, nccl = 0;
  cudaRuntimeGetVersion(&runtime);
  ncclGetVersion(&nccl);
  return fmt::format("CUDA {}.{}, NCCL {}.{}.{}", runtime / 1000, runtime % 1000 / 10, nccl / 10000,
                     nccl % 10000 / 100, nccl % 100);
}

int driver_cuda() {
  int version = 0;
  check(cudaDriverGetVersion(&version), "asking for the driver's version");
  return version;
}

int runtime_cuda() {
  int version = 0;
  check(cudaRuntimeGetVersion(&version), "asking for the runtime's version");
  return version;
}

int nccl_loaded() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) fail(ExitCode::internal, "NCCL does not tell its version");
  return version;
}

int nccl_built_with() {
  return NCCL_VERSION_CODE;
}

std::string pci_address(int device) {
  char text[32] = "";
  check(cudaDeviceGetPCIBusId(text, sizeof text, device), "asking for a device's PCI address");
  return text;
}

bool peer_access(int device, int peer) {
  int possible = 0;
  check(cudaDeviceCanAccessPeer(&possible, device, peer), "asking for peer access");
  return possible != 0;
}

int64_t allocated(int device) {
  using c10::CachingAllocator::StatType;
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(c10::DeviceIndex(device));
  return stats.allocated_bytes[size_t(StatType::AGGREGATE)].current;
}

double utilisation(int device) {
  return nvml_utilisation(pci_address(device));
}

int compute_capability(int device) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "reading a device's kind");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "reading a device's kind");
  return major * 10 + minor;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const CudaFunctions frameshard_cuda_functions = {
    device_count,    set_device,  synchronize, memory,      peak_allocated, reset_peak,
    empty_cache,     device_name, versions,    driver_cuda, runtime_cuda,   nccl_loaded,
    nccl_built_with, pci_address, peer_access, allocated,   utilisation,    compute_capability};

}  // namespace frameshard
