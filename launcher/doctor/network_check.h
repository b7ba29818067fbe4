// Can the hosts of a job reach each other? Names, addresses, subnets.
#pragma once

#include "core/net.h"
#include "launcher/doctor/finding.h"

namespace frameshard {

/// One host of the job.
struct HostFacts {
  std::string name;
  std::vector<NetInterface> interfaces;
};

/// The interfaces of one host, as findings of it.
Findings check_interfaces(const std::vector<NetInterface>& interfaces);

/// A subnet that every host has an interface in, and leads from one to another: where two hosts have the same
/// address in it, it is a bridge of each host's own (docker0).
struct CommonSubnet {
  std::string subnet;                   ///< "10.0.0.0/24"
  std::vector<std::string> interfaces;  ///< one a host
  std::vector<int64_t> mtus;
};
std::vector<CommonSubnet> common_subnets(const std::vector<HostFacts>& hosts);

/// Rules between several hosts: names differ, a subnet is common to all, MTUs agree. Nothing for one host.
Findings check_hosts(const std::vector<HostFacts>& hosts);

Json to_json(const NetInterface& interface);
NetInterface interface_from_json(const Json& json);

}  // namespace frameshard
