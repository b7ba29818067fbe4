#include "core/pci.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>

namespace frameshard {
namespace {

std::string read_line(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

int read_number(const std::filesystem::path& file, int fallback) {
  std::ifstream in(file);
  int value = 0;
  return in >> value ? value : fallback;
}

PciLink read_link(const std::filesystem::path& device, const std::string& which) {
  // 255 lanes: the link is down, or a virtual machine hides it.
  const int width = read_number(device / (which + "_link_width"), 0);
  return {.gigatransfers = parse_link_speed(read_line(device / (which + "_link_speed"))),
          .width = width > 0 && width <= 32 ? width : 0};
}

}  // namespace

double parse_link_speed(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || !(value > 0 && value < 1000)) return 0;
  return std::string_view(end, size_t(text.data() + text.size() - end)).starts_with(" GT/s") ? value : 0;
}

int pcie_generation(double gigatransfers) {
  constexpr double speeds[] = {2.5, 5, 8, 16, 32, 64};
  const auto* found = std::find(std::begin(speeds), std::end(speeds), gigatransfers);
  return found == std::end(speeds) ? 0 : int(found - std::begin(speeds)) + 1;
}

PciDevice read_pci_device(const std::string& address, const std::filesystem::path& root) {
  PciDevice device{.address = address, .now = {}, .most = {}};
  for (char& c : device.address) c = char(std::tolower(static_cast<unsigned char>(c)));
  const auto directory = root / device.address;
  device.now = read_link(directory, "current");
  device.most = read_link(directory, "max");
  device.numa_node = read_number(directory / "numa_node", -1);
  return device;
}

std::vector<std::string> nvidia_cards(const std::filesystem::path& root) {
  std::vector<std::string> cards;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(root, ignored)) {
    const bool nvidia = read_line(entry.path() / "vendor") == "0x10de";
    if (nvidia && read_line(entry.path() / "class").starts_with("0x03")) {
      cards.push_back(entry.path().filename().string());
    }
  }
  std::sort(cards.begin(), cards.end());
  return cards;
}

}  // namespace frameshard
