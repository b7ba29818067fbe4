#include "launcher/doctor/network_check.h"

#include <algorithm>
#include <map>
#include <set>

namespace frameshard {
namespace {

constexpr const char* subject = "network";

bool usable(const NetInterface& interface) {
  return interface.up && !interface.loopback;
}

// A host's addresses by subnet, of usable interfaces. A subnet of one address connects nothing.
struct Entry {
  std::string address, interface;
  int64_t mtu;
};
std::map<std::string, Entry> subnets_of(const HostFacts& host) {
  std::map<std::string, Entry> subnets;
  for (const NetInterface& interface : host.interfaces) {
    if (!usable(interface)) continue;
    for (const NetAddress& address : interface.addresses) {
      const std::string subnet = subnet_of(address);
      if (subnet.empty() || subnet.ends_with("/32") || subnet.ends_with("/128")) continue;
      subnets.try_emplace(subnet, Entry{address.text, interface.name, interface.mtu});
    }
  }
  return subnets;
}

bool all_equal(const auto& values) {
  return std::all_of(values.begin(), values.end(),
                     [&](const auto& value) { return value == values.front(); });
}

std::string addresses_text(const HostFacts& host) {
  std::vector<std::string> texts;
  for (const NetInterface& interface : host.interfaces) {
    if (!usable(interface)) continue;
    for (const NetAddress& address : interface.addresses) {
      texts.push_back(fmt::format("{} {}/{}", interface.name, address.text, address.prefix));
    }
  }
  return fmt::format("{} has {}", host.name,
                     texts.empty() ? "none" : fmt::format("{}", fmt::join(texts, ", ")));
}

Finding check_names(const std::vector<HostFacts>& hosts) {
  std::map<std::string, int> count;
  for (const HostFacts& host : hosts) ++count[host.name];
  for (const auto& [name, times] : count) {
    if (times == 1) continue;
    return change(
        "host names",
        fmt::format("{} hosts or containers are all called {}: MPI takes them for one and crashes or hangs",
                    times, name),
        "give each a name of its own (hostnamectl set-hostname, docker run --hostname)", Scope::job);
  }
  return ok("host names", fmt::format("{} hosts, all different", hosts.size()), Scope::job);
}

// Every host has addresses without a subnet alone, as some clouds give them: routes decide, which cannot be
// seen.
bool only_single_addresses(const std::vector<HostFacts>& hosts) {
  return std::all_of(hosts.begin(), hosts.end(), [](const HostFacts& host) {
    const bool any = std::any_of(host.interfaces.begin(), host.interfaces.end(), usable);
    return any && subnets_of(host).empty();
  });
}

Finding no_common_subnet(const std::vector<HostFacts>& hosts) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < hosts.size() && i < 4; ++i) texts.push_back(addresses_text(hosts[i]));
  const std::string seen = fmt::format("{}", fmt::join(texts, "; "));
  if (only_single_addresses(hosts)) {
    return note(
        subject,
        "addresses without a subnet, so that it cannot be told whether hosts reach each other: " + seen,
        Scope::job);
  }
  return change(
      subject, "no subnet is common to all hosts: " + seen,
      "connect them; if routers do, name the subnets: mpirun --mca btl_tcp_if_include SUBNET,SUBNET and "
      "NCCL_SOCKET_IFNAME=INTERFACE",
      Scope::job);
}

Finding check_common(const CommonSubnet& common, size_t hosts) {
  const std::string flags = fmt::format("--mca btl_tcp_if_include {}, NCCL_SOCKET_IFNAME={}", common.subnet,
                                        common.interfaces.front());
  if (!all_equal(common.mtus)) {
    return change(subject,
                  fmt::format("in {} the hosts' MTUs are {}: large messages may get lost", common.subnet,
                              fmt::join(common.mtus, ", ")),
                  "set the same MTU on every host (ip link set dev INTERFACE mtu N)", Scope::job);
  }
  return ok(subject, fmt::format("{} is common to {} hosts ({})", common.subnet, hosts, flags), Scope::job);
}

}  // namespace

Findings check_interfaces(const std::vector<NetInterface>& interfaces) {
  Findings findings;
  for (const NetInterface& interface : interfaces) {
    if (interface.loopback) continue;
    std::vector<std::string> addresses;
    for (const NetAddress& address : interface.addresses) {
      addresses.push_back(fmt::format("{}/{}", address.text, address.prefix));
    }
    const std::string speed = interface.speed_mbit > 0
                                  ? fmt::format("{:g} Gbit/s", double(interface.speed_mbit) / 1000)
                                  : "speed unknown";
    const std::string text = fmt::format("{} {}, {}, {}, MTU {}", interface.name, fmt::join(addresses, " "),
                                         interface.up ? "up" : "down", speed, interface.mtu);
    findings.push_back(interface.up ? ok("interface", text, Scope::host)
                                    : note("interface", text, Scope::host));
  }
  if (std::none_of(interfaces.begin(), interfaces.end(), usable)) {
    findings.push_back(
        note("interface", "none but loopback is up: ranks of this host alone can exchange", Scope::host));
  }
  return findings;
}

std::vector<CommonSubnet> common_subnets(const std::vector<HostFacts>& hosts) {
  std::vector<std::map<std::string, Entry>> all;
  for (const HostFacts& host : hosts) all.push_back(subnets_of(host));
  std::vector<CommonSubnet> common;
  if (all.empty()) return common;
  for (const auto& [subnet, ignored] : all.front()) {
    CommonSubnet candidate{.subnet = subnet, .interfaces = {}, .mtus = {}};
    std::set<std::string> addresses;
    for (const auto& subnets : all) {
      const auto found = subnets.find(subnet);
      if (found == subnets.end()) break;
      addresses.insert(found->second.address);
      candidate.interfaces.push_back(found->second.interface);
      candidate.mtus.push_back(found->second.mtu);
    }
    if (addresses.size() == hosts.size()) common.push_back(candidate);
  }
  return common;
}

Findings check_hosts(const std::vector<HostFacts>& hosts) {
  if (hosts.size() < 2) return {};
  Findings findings{check_names(hosts)};
  const auto common = common_subnets(hosts);
  if (common.empty()) findings.push_back(no_common_subnet(hosts));
  for (const CommonSubnet& subnet : common) findings.push_back(check_common(subnet, hosts.size()));
  return findings;
}

Json to_json(const NetInterface& interface) {
  Json addresses = Json::array();
  for (const NetAddress& address : interface.addresses) addresses.push_back({address.text, address.prefix});
  return {interface.name, interface.up, interface.loopback, interface.speed_mbit, interface.mtu, addresses};
}

NetInterface interface_from_json(const Json& json) {
  NetInterface interface {
    .name = json.at(0).get<std::string>(), .up = json.at(1).get<bool>(), .loopback = json.at(2).get<bool>(),
    .speed_mbit = json.at(3).get<int64_t>(), .mtu = json.at(4).get<int64_t>(), .addresses = {}
  };
  for (const Json& address : json.at(5)) {
    interface.addresses.push_back({address.at(0).get<std::string>(), address.at(1).get<int>()});
  }
  return interface;
}

}  // namespace frameshard
