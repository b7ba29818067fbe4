#include "parallel/hardware.h"

#include <span>
#include <vector>

#include "core/error.h"

namespace frameshard {
namespace {

// Operations: 517 to 544 TFLOP/s were measured for a whole bf16 transformer on an H200 (cuDNN attention),
// half of its dense bf16 rate; the others are taken to reach half of theirs (H100 989, A100 312, B200 2250,
// L40S 362, RTX 4090 165 TFLOP/s). Links, estimated from data sheets: 0.82 of NVLink (H100 and H200 450, A100
// 300, B200 900 GB/s a direction), 0.8 of PCIe 4's 32 GB/s, and half of that where GPUs reach each other only
// through the host's memory (RTX 4090). Element-wise kernels: 0.7 of the memory's rate (H200 4.8, H100 3.35,
// A100 2.0, B200 8, L40S 0.86, RTX 4090 1.0 TB/s). Memory: what the driver offers of 141, 80, 180, 48 and 24
// GB. A collective of NCCL is taken to need 20 us, and a layer 70 kernels of 6 us each for the host to start.
// CPU: one thread with oneDNN, ranks of one host through shared memory.
constexpr int64_t gib = int64_t(1) << 30;
constexpr DeviceKind devices[] = {
    // operations, memory, link; seconds a collective, a layer; memory
    {"cpu", "cpu", 60e9, 8e9, 4e9, 0, 0, 0},
    {"cuda", "cuda", 500e12, 3.4e12, 370e9, 20e-6, 400e-6, 0},
    {"h200", "cuda", 500e12, 3.4e12, 370e9, 20e-6, 400e-6, 140 * gib},
    {"h100", "cuda", 500e12, 2.3e12, 370e9, 20e-6, 400e-6, 79 * gib},
    {"b200", "cuda", 1125e12, 5.6e12, 740e9, 20e-6, 400e-6, 178 * gib},
    {"a100", "cuda", 156e12, 1.4e12, 246e9, 20e-6, 400e-6, 79 * gib},
    {"l40s", "cuda", 181e12, 0.6e12, 25e9, 20e-6, 400e-6, 44 * gib},
    {"rtx4090", "cuda", 82e12, 0.7e12, 12e9, 20e-6, 400e-6, 23 * gib},
};

// Line rates: Ethernet 10, 25 and 100 Gbit/s, of which TCP reaches 0.9; InfiniBand HDR and NDR 200 and 400
// Gbit/s, of which NCCL reaches 0.96 (48 GB/s of 50). Ethernet: one adapter a node. InfiniBand: one a GPU, as
// in the vendors' reference systems of 8 GPUs and 8 adapters.
constexpr Interconnect interconnects[] = {
    {"ethernet10", 1.1e9, true, 60e-6},
    {"ethernet25", 2.8e9, true, 60e-6},
    {"ethernet100", 11e9, true, 60e-6},
    {"hdr200", 24e9, false, 30e-6},
    {"ndr200", 24e9, false, 30e-6},
    {"ndr400", 48e9, false, 30e-6},
    {"none", 0, true, 0},
};

template <class Kind>
std::string names_of(std::span<const Kind> kinds) {
  std::vector<std::string_view> names;
  for (const Kind& kind : kinds) names.push_back(kind.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

template <class Kind>
const Kind& find(std::span<const Kind> kinds, const char* flag, const std::string& name) {
  for (const Kind& kind : kinds) {
    if (kind.name == name) return kind;
  }
  fail(ExitCode::usage, "{} is \"{}\"; known are {}", flag, name, names_of(kinds));
}

}  // namespace

const DeviceKind& device_kind(const std::string& name) {
  return find(std::span<const DeviceKind>(devices), "--device", name);
}

const Interconnect& interconnect(const std::string& name) {
  return find(std::span<const Interconnect>(interconnects), "--interconnect", name);
}

std::string device_names() {
  return names_of(std::span<const DeviceKind>(devices));
}

std::string interconnect_names() {
  return names_of(std::span<const Interconnect>(interconnects));
}

}  // namespace frameshard
