// Network interfaces of this host, from getifaddrs and /sys/class/net.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace frameshard {

struct NetAddress {
  std::string text;  ///< "10.0.0.3" or "fd00::3"
  int prefix = 0;    ///< bits of the network part: 24
};

struct NetInterface {
  std::string name;
  bool up = false, loopback = false;
  int64_t speed_mbit = -1;  ///< -1: the driver does not say (virtual interfaces)
  int64_t mtu = 0;
  std::vector<NetAddress> addresses;  ///< IPv4 and IPv6, without link-local ones
};

/// The interfaces that have an address, ordered by name. Empty where the system does not tell.
std::vector<NetInterface> network_interfaces();

/// "10.0.0.0/24"; empty for what is no address, or has more prefix bits than its kind of address.
std::string subnet_of(const NetAddress& address);

/// True when this host can turn the name into an address. May take seconds where a name server is silent.
bool host_resolves(const std::string& name);

}  // namespace frameshard
