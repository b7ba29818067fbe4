// How busy a GPU is, from the driver's library, which is opened where it is.
#pragma once

#include <string>

namespace frameshard {

/// The share of time in which the GPU at this PCI address had work lately, 0 to 1; negative where NVML is
/// missing or does not tell (a part of a GPU).
double nvml_utilisation(const std::string& pci_address);

}  // namespace frameshard
