#include "core/net.h"

#include <array>
#include <bit>
#include <fstream>
#include <map>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

namespace frameshard {
namespace {

// A number in /sys/class/net/<name>/<file>; reading "speed" of a virtual interface fails.
int64_t attribute(const std::string& name, const char* file, int64_t fallback) {
  std::ifstream in("/sys/class/net/" + name + "/" + file);
  int64_t value = 0;
  return in >> value && value >= 0 ? value : fallback;
}

int ones(const unsigned char* bytes, size_t count) {
  int total = 0;
  for (size_t i = 0; i < count; ++i) total += std::popcount(bytes[i]);
  return total;
}

// False for what is neither IPv4 nor IPv6, and for link-local IPv6, which every interface has.
bool read_address(const ifaddrs& entry, NetAddress& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (!entry.ifa_addr || !entry.ifa_netmask) return false;
  if (entry.ifa_addr->sa_family == AF_INET) {
    const auto* ip = reinterpret_cast<const sockaddr_in*>(entry.ifa_addr);
    const auto* mask = reinterpret_cast<const sockaddr_in*>(entry.ifa_netmask);
    inet_ntop(AF_INET, &ip->sin_addr, text, sizeof text);
    address.prefix = ones(reinterpret_cast<const unsigned char*>(&mask->sin_addr), 4);
  } else if (entry.ifa_addr->sa_family == AF_INET6) {
    const auto* ip = reinterpret_cast<const sockaddr_in6*>(entry.ifa_addr);
    const auto* mask = reinterpret_cast<const sockaddr_in6*>(entry.ifa_netmask);
    if (IN6_IS_ADDR_LINKLOCAL(&ip->sin6_addr)) return false;
    inet_ntop(AF_INET6, &ip->sin6_addr, text, sizeof text);
    address.prefix = ones(mask->sin6_addr.s6_addr, 16);
  }
  address.text = text;
  return !address.text.empty();
}

}  // namespace

std::vector<NetInterface> network_interfaces() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {};
  std::map<std::string, NetInterface> found;
  for (const ifaddrs* entry = list; entry; entry = entry->ifa_next) {
    NetAddress address;
    if (!read_address(*entry, address)) continue;
    NetInterface& interface = found[entry->ifa_name];
    interface.name = entry->ifa_name;
    interface.up = (entry->ifa_flags & IFF_UP) && (entry->ifa_flags & IFF_RUNNING);
    interface.loopback = entry->ifa_flags & IFF_LOOPBACK;
    interface.addresses.push_back(address);
  }
  freeifaddrs(list);
  std::vector<NetInterface> interfaces;
  for (auto& [name, interface] : found) {
    interface.speed_mbit = attribute(name, "speed", -1);
    interface.mtu = attribute(name, "mtu", 0);
    interfaces.push_back(std::move(interface));
  }
  return interfaces;
}

std::string subnet_of(const NetAddress& address) {
  for (const auto& [family, size] : {std::pair{AF_INET, 4}, std::pair{AF_INET6, 16}}) {
    std::array<unsigned char, 16> bytes{};
    if (inet_pton(family, address.text.c_str(), bytes.data()) != 1) continue;
    if (address.prefix < 0 || address.prefix > size * 8) return "";
    for (int bit = address.prefix; bit < size * 8; ++bit) {
      bytes[size_t(bit / 8)] &= static_cast<unsigned char>(~(0x80u >> (bit % 8)));
    }
    char text[INET6_ADDRSTRLEN] = "";
    inet_ntop(family, bytes.data(), text, sizeof text);
    return fmt::format("{}/{}", text, address.prefix);
  }
  return "";
}

bool host_resolves(const std::string& name) {
  addrinfo* found = nullptr;
  if (getaddrinfo(name.c_str(), nullptr, nullptr, &found) != 0) return false;
  freeaddrinfo(found);
  return true;
}

}  // namespace frameshard
