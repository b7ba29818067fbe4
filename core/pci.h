// PCI devices as /sys/bus/pci shows them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace frameshard {

/// A PCI Express link; zeros where the system does not say.
struct PciLink {
  double gigatransfers = 0;  ///< GT/s a lane
  int width = 0;             ///< lanes
};

struct PciDevice {
  std::string address;  ///< "0000:0f:00.0"
  PciLink now, most;
  int numa_node = -1;  ///< -1: unknown, or there is one node alone
};

/// "16.0 GT/s PCIe" -> 16; 0 for "Unknown speed" and anything else.
double parse_link_speed(std::string_view text);
/// 2.5, 5, 8, 16, 32, 64 GT/s -> generation 1 to 6 (PCI Express Base Specification); 0 for other speeds.
int pcie_generation(double gigatransfers);

/// What is known of the device at `address`, in either case of letters.
PciDevice read_pci_device(const std::string& address,
                          const std::filesystem::path& root = "/sys/bus/pci/devices");
/// Addresses of NVIDIA's display and 3D controllers, whether a driver is there or not.
std::vector<std::string> nvidia_cards(const std::filesystem::path& root = "/sys/bus/pci/devices");

}  // namespace frameshard
