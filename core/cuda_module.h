// The CUDA part of the engine, loaded at run time only where an NVIDIA driver and a GPU are: a process that
// loads libtorch_cuda starts 0.5 s later and takes 350 MB more, which a CPU rank should not pay.
#pragma once

#include <cstdint>
#include <string>

namespace frameshard {

/// Functions that the module exports; device numbers are this process's visible devices. All throw Error.
struct CudaFunctions {
  int (*device_count)();
  void (*set_device)(int device);
  void (*synchronize)(int device);
  /// Takes some hundred MB of the device, which a process needs that computes there.
  int64_t (*free_memory)(int device);
  int64_t (*total_memory)(int device);
  int64_t (*peak_allocated)(int device);
  void (*reset_peak)(int device);
  void (*empty_cache)();
  std::string (*device_name)(int device);
  std::string (*versions)();  ///< "CUDA 13.0, NCCL 2.28.9"
  // For `frameshard doctor`. CUDA's numbers: 13000 is 13.0; NCCL's: 22809 is 2.28.9.
  int (*driver_cuda)();   ///< the newest CUDA that the driver can run
  int (*runtime_cuda)();  ///< the CUDA that this build needs
  int (*nccl_loaded)();
  int (*nccl_built_with)();
  std::string (*pci_address)(int device);  ///< "0000:0F:00.0"
  bool (*peer_access)(int device, int peer);
  // For those who watch a run; from any thread.
  int64_t (*allocated)(int device);
  double (*utilisation)(int device);      ///< lately, 0 to 1; negative where NVML does not tell
  int (*compute_capability)(int device);  ///< 90 is 9.0
};

/// The module's functions, or null where there is no GPU. The first call loads the module, and must come
/// before any tensor is made: LibTorch looks for its CUDA part once.
const CudaFunctions* cuda();
/// Whether CUDA_VISIBLE_DEVICES hides every GPU.
bool gpus_hidden();
/// Why cuda() is null: "no NVIDIA driver", "built without CUDA", or the loader's message. Empty where it is
/// not.
const std::string& why_no_cuda();
/// A symbol of the module for a higher layer (the NCCL backend); null where there is no GPU.
void* cuda_symbol(const char* name);

}  // namespace frameshard
