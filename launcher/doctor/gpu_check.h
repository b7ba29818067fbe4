// GPUs: driver, NCCL, PCI Express links, peer access, and whether they are alike.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pci.h"
#include "launcher/doctor/finding.h"

namespace frameshard {

struct GpuFacts {
  std::string name;
  int64_t memory = 0;
  PciDevice pci;
};

/// What one process sees. CUDA's numbers: 13000 is 13.0; NCCL's: 22809 is 2.28.9.
struct CudaFacts {
  std::string why_none;            ///< empty where a GPU can be used
  bool hidden = false;             ///< by CUDA_VISIBLE_DEVICES, on purpose
  std::vector<std::string> cards;  ///< NVIDIA's, on the PCI bus
  int driver = 0, runtime = 0, nccl_loaded = 0, nccl_built_with = 0;
  std::vector<GpuFacts> gpus;           ///< the visible ones
  std::vector<std::vector<bool>> peer;  ///< [a][b]: a reads b's memory directly
};

/// Of this process.
CudaFacts cuda_facts();

/// Driver, NCCL and GPUs of a host.
Findings check_gpus(const CudaFacts& facts);

/// The names of all ranks' GPUs: unlike ones wait for the slowest. Nothing where there is none.
Findings check_alike(const std::vector<std::string>& names);

}  // namespace frameshard
