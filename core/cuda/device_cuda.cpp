// The functions of core/cuda_module.h, compiled into the module that is loaded where a GPU is.
#include <ATen/Version.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
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

// Not for the whole device: that is forbidden while another thread records a graph on it.
void synchronize(int device) {
  const c10::cuda::CUDAGuard guard{c10::DeviceIndex(device)};  // the default stream is the current device's
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream(c10::DeviceIndex(device));
  check(cudaStreamSynchronize(stream), "waiting for a device");
}

int64_t free_memory(int device) {
  const c10::cuda::CUDAGuard guard{c10::DeviceIndex(device)};
  size_t free_now = 0, total = 0;
  check(cudaMemGetInfo(&free_now, &total), "asking for free memory");
  return int64_t(free_now);
}

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "reading a device's properties");
  return properties;
}

// From the properties, which need no context.
int64_t total_memory(int device) {
  return int64_t(properties_of(device).totalGlobalMem);
}

// Nothing before LibTorch has started: a status line may ask earlier.
c10::CachingAllocator::Stat allocated_bytes(int device) {
  using c10::CachingAllocator::StatType;
  if (!c10::cuda::CUDACachingAllocator::get()->initialized()) return {};
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(c10::DeviceIndex(device));
  return stats.allocated_bytes[size_t(StatType::AGGREGATE)];
}

int64_t peak_allocated(int device) {
  return allocated_bytes(device).peak;
}

int64_t allocated(int device) {
  return allocated_bytes(device).current;
}

void reset_peak(int device) {
  if (!c10::cuda::CUDACachingAllocator::get()->initialized()) return;
  c10::cuda::CUDACachingAllocator::resetPeakStats(c10::DeviceIndex(device));
}

void empty_cache() {
  c10::cuda::CUDACachingAllocator::emptyCache();
}

std::string device_name(int device) {
  return properties_of(device).name;
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
    device_count, set_device,  synchronize, free_memory, total_memory,      peak_allocated, reset_peak,
    empty_cache,  device_name, versions,    driver_cuda, runtime_cuda,      nccl_loaded,    nccl_built_with,
    pci_address,  peer_access, allocated,   utilisation, compute_capability};

}  // namespace frameshard
