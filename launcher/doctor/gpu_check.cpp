#include "launcher/doctor/gpu_check.h"

#include <map>

#include "core/cuda_module.h"
#include "core/host.h"

namespace frameshard {
namespace {

std::string cuda_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string nccl_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

std::string link_text(const PciLink& link) {
  if (link.width == 0 || link.gigatransfers == 0) return "unknown";
  const int generation = pcie_generation(link.gigatransfers);
  return generation > 0 ? fmt::format("gen {} x{}", generation, link.width)
                        : fmt::format("{:g} GT/s x{}", link.gigatransfers, link.width);
}

Finding no_gpu(const CudaFacts& facts) {
  if (facts.cards.empty() || facts.hidden) {
    return note("GPU", facts.why_none + ": ranks compute on the CPU", Scope::host);
  }
  return change("GPU",
                fmt::format("{} NVIDIA card{} on the PCI bus ({}), but {}", facts.cards.size(),
                            facts.cards.size() == 1 ? " is" : "s are", facts.cards.front(), facts.why_none),
                "install the driver (nvidia-smi must list the cards); in containers docker run --gpus all",
                Scope::host);
}

Finding check_driver(const CudaFacts& facts) {
  const std::string both = fmt::format("the driver runs CUDA up to {}, this build needs {}",
                                       cuda_text(facts.driver), cuda_text(facts.runtime));
  // Within a major version an older driver runs newer programs (CUDA's minor version compatibility).
  if (facts.driver / 1000 < facts.runtime / 1000) {
    return change("CUDA driver", both, "update the driver", Scope::host);
  }
  return ok("CUDA driver", both, Scope::host);
}

Finding check_nccl(const CudaFacts& facts) {
  const std::string loaded = nccl_text(facts.nccl_loaded), built = nccl_text(facts.nccl_built_with);
  if (facts.nccl_loaded == facts.nccl_built_with) return ok("NCCL", loaded, Scope::host);
  const std::string both = fmt::format("{} is loaded, {} was compiled with", loaded, built);
  if (facts.nccl_loaded > facts.nccl_built_with)
    return note("NCCL", both + ": newer ones should do", Scope::host);
  return change("NCCL", both,
                "remove the older libnccl.so.2 from LD_LIBRARY_PATH and LD_PRELOAD, or build with it",
                Scope::host);
}

Finding check_link(int number, const GpuFacts& gpu) {
  const PciLink &now = gpu.pci.now, &most = gpu.pci.most;
  const std::string numa = gpu.pci.numa_node < 0 ? "" : fmt::format(", NUMA node {}", gpu.pci.numa_node);
  const std::string seen =
      fmt::format("{}: {}, {}, {}, PCIe {}{}", number, gpu.name, format_bytes(double(gpu.memory)),
                  gpu.pci.address, link_text(now), numa);
  const std::string below = fmt::format("{}, of {} at most", seen, link_text(most));
  if (now.width > 0 && now.width < most.width) {
    return change("GPU", below, "seat the card in a slot with all lanes; look at the BIOS for a split slot",
                  Scope::host);
  }
  if (now.gigatransfers > 0 && now.gigatransfers < most.gigatransfers) {
    return note("GPU", below + ": idle cards clock the link down; look again under load", Scope::host);
  }
  return ok("GPU", seen, Scope::host);
}

Findings check_peers(const CudaFacts& facts) {
  const size_t count = facts.peer.size();
  if (count < 2) return {};
  std::string matrix;
  size_t missing = 0;
  for (size_t a = 0; a < count; ++a) {
    matrix += a == 0 ? "" : " ";
    for (size_t b = 0; b < count; ++b) {
      matrix += a == b ? '-' : facts.peer[a][b] ? '1' : '0';
      missing += a != b && !facts.peer[a][b];
    }
  }
  if (missing == 0) return {ok("GPU peers", "every GPU reads every other's memory: " + matrix, Scope::host)};
  return {note("GPU peers",
               fmt::format("{} of {} pairs exchange through the host's memory: {}", missing,
                           count * (count - 1), matrix),
               Scope::host)};
}

std::vector<std::vector<bool>> peer_matrix(int count) {
  std::vector<std::vector<bool>> matrix(size_t(count), std::vector<bool>(size_t(count), true));
  for (int a = 0; a < count; ++a) {
    for (int b = 0; b < count; ++b) {
      if (a != b) matrix[size_t(a)][size_t(b)] = cuda()->peer_access(a, b);
    }
  }
  return matrix;
}

}  // namespace

CudaFacts cuda_facts() {
  CudaFacts facts;
  facts.why_none = why_no_cuda(), facts.cards = nvidia_cards();
  facts.hidden = gpus_hidden();
  if (!cuda()) return facts;
  facts.driver = cuda()->driver_cuda(), facts.runtime = cuda()->runtime_cuda();
  facts.nccl_loaded = cuda()->nccl_loaded(), facts.nccl_built_with = cuda()->nccl_built_with();
  for (int i = 0; i < cuda()->device_count(); ++i) {
    GpuFacts gpu{.name = cuda()->device_name(i), .pci = read_pci_device(cuda()->pci_address(i))};
    gpu.memory = cuda()->total_memory(i);
    facts.gpus.push_back(gpu);
  }
  facts.peer = peer_matrix(cuda()->device_count());
  return facts;
}

Findings check_gpus(const CudaFacts& facts) {
  if (facts.gpus.empty()) return {no_gpu(facts)};
  Findings findings{check_driver(facts), check_nccl(facts)};
  for (size_t i = 0; i < facts.gpus.size(); ++i) findings.push_back(check_link(int(i), facts.gpus[i]));
  for (const Finding& finding : check_peers(facts)) findings.push_back(finding);
  return findings;
}

Findings check_alike(const std::vector<std::string>& names) {
  std::map<std::string, int> count;
  for (const std::string& name : names) ++count[name];
  if (names.empty()) return {};
  if (count.size() == 1) {
    return {ok("GPUs alike", fmt::format("{} x {}", names.size(), names.front()), Scope::job)};
  }
  std::vector<std::string> texts;
  for (const auto& [name, times] : count) texts.push_back(fmt::format("{} x {}", times, name));
  return {change("GPUs alike",
                 fmt::format("{}: equal shares make the slowest set the pace", fmt::join(texts, ", ")),
                 "run on equal ones (CUDA_VISIBLE_DEVICES, or other hosts)", Scope::job)};
}

}  // namespace frameshard
