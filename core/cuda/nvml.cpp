#include "core/cuda/nvml.h"

#include <dlfcn.h>

namespace frameshard {
namespace {

// From NVIDIA's nvml.h, whose binary interface is kept: 0 is success, a device is an opaque pointer.
struct Utilization {
  unsigned gpu, memory;  // percent
};

struct Nvml {
  int (*device_by_pci)(const char* address, void** device) = nullptr;
  int (*rates)(void* device, Utilization* utilization) = nullptr;
};

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

Nvml open_nvml() {
  Nvml nvml;
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return nvml;
  int (*init)() = nullptr;
  find(library, "nvmlInit_v2", init);
  if (!init || init() != 0) return nvml;
  find(library, "nvmlDeviceGetHandleByPciBusId_v2", nvml.device_by_pci);
  find(library, "nvmlDeviceGetUtilizationRates", nvml.rates);
  return nvml;
}

}  // namespace

double nvml_utilisation(const std::string& pci_address) {
  static const Nvml nvml = open_nvml();
  void* device = nullptr;
  Utilization utilization{};
  const bool known = nvml.device_by_pci && nvml.rates &&
                     nvml.device_by_pci(pci_address.c_str(), &device) == 0 &&
                     nvml.rates(device, &utilization) == 0;
  return known ? utilization.gpu / 100.0 : -1;
}

}  // namespace frameshard
