#include "launcher/doctor/examine.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>

#include "core/cuda_module.h"
#include "core/host.h"
#include "launcher/doctor/gpu_check.h"
#include "launcher/doctor/limits_check.h"
#include "launcher/doctor/mpi_match.h"
#include "launcher/doctor/network_check.h"
#include "launcher/doctor/versions_check.h"
#include "launcher/gather_json.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

void append(Findings& to, const Findings& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// A host's own name matters alone too: MPI's daemons look it up.
Finding check_resolution(const std::vector<std::string>& names) {
  std::vector<std::string> unknown;
  for (const std::string& name : names) {
    if (!host_resolves(name)) unknown.push_back(name);
  }
  if (unknown.empty()) {
    return ok("host names", names.size() == 1 ? names.front() + " can be looked up" : "all can be looked up",
              Scope::host);
  }
  return note("host names",
              fmt::format("{} cannot be looked up; an mpirun with a list of hosts needs it (/etc/hosts)",
                          fmt::join(unknown, ", ")),
              Scope::host);
}

// What this rank alone can say.
Findings own_findings(const Hosts& hosts, int rank, int world, const std::optional<CudaFacts>& gpus) {
  MpiFacts mpi = mpi_facts(world);
  const LimitFacts limits = limit_facts();
  Findings findings;
  const bool first_of_host = hosts.place[size_t(rank)] == 0;
  if (first_of_host) {
    find_mpirun(mpi);
    append(findings, check_mpi_programs(mpi));
  }
  append(findings, check_launcher(mpi));
  if (gpus) append(findings, check_gpus(*gpus));
  if (first_of_host) {
    append(findings, check_interfaces(network_interfaces()));
    findings.push_back(check_resolution(hosts.names));
  }
  append(findings, check_rank_limits(limits, world, hosts.sharing(rank)));
  if (first_of_host) {
    append(findings, check_host_limits(limits, hosts.ranks_of(hosts.of_rank[size_t(rank)])));
  }
  return findings;
}

Json own_facts(const Hosts& hosts, int rank, int world) {
  // Looking at a GPU takes memory of it: the first rank of a host looks at all, others at one of their own.
  const bool own_gpu = cuda() && cuda()->device_count() == 1;
  std::optional<CudaFacts> gpus;
  if (hosts.place[size_t(rank)] == 0 || own_gpu) gpus = cuda_facts();
  Json interfaces = Json::array(), names = Json::array();
  for (const NetInterface& interface : network_interfaces()) interfaces.push_back(to_json(interface));
  for (const GpuFacts& gpu : gpus ? gpus->gpus : std::vector<GpuFacts>{}) {
    names.push_back({gpu.pci.address, gpu.name});
  }
  return {{"findings", to_json(own_findings(hosts, rank, world, gpus))},
          {"versions", own_versions()},
          {"interfaces", interfaces},
          {"gpus", names}};
}

Finding check_wall_clocks(Communicator& world) {
  world.barrier();
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  std::vector<double> all;
  for (const auto& numbers : gather_numbers(world, {now})) all.push_back(numbers.front());
  const double apart = *std::ranges::max_element(all) - *std::ranges::min_element(all);
  if (apart < 1) return ok("wall clocks", "less than a second apart", Scope::job);
  return note(
      "wall clocks",
      fmt::format("{:.0f} s apart between ranks: no effect on results, but times in logs mislead", apart),
      Scope::job);
}

Findings job_findings(const std::vector<Json>& facts, const Hosts& hosts, Communicator& world) {
  std::vector<RankVersions> versions;
  std::vector<HostFacts> of_hosts(hosts.names.size());
  std::map<std::pair<size_t, std::string>, std::string> gpus;  // names by host and address
  for (size_t rank = 0; rank < facts.size(); ++rank) {
    const auto host = size_t(hosts.of_rank[rank]);
    versions.push_back({.rank = int(rank), .host = hosts.names[host], .of = facts[rank].at("versions")});
    for (const Json& gpu : facts[rank].at("gpus")) gpus[{host, gpu.at(0)}] = gpu.at(1);
    if (hosts.place[rank] != 0) continue;
    of_hosts[host].name = hosts.names[host];
    for (const Json& interface : facts[rank].at("interfaces")) {
      of_hosts[host].interfaces.push_back(interface_from_json(interface));
    }
  }
  Findings findings = check_versions(versions);
  std::vector<std::string> names;
  for (const auto& [place, name] : gpus) names.push_back(name);
  append(findings, check_alike(names));
  append(findings, check_hosts(of_hosts));
  if (hosts.names.size() > 1) findings.push_back(check_wall_clocks(world));
  return findings;
}

}  // namespace

int Hosts::ranks_of(int host) const {
  return int(std::count(of_rank.begin(), of_rank.end(), host));
}

int Hosts::sharing(int rank) const {
  const auto me = size_t(rank);
  int count = 0;
  for (size_t i = 0; i < of_rank.size(); ++i) count += of_rank[i] == of_rank[me] && cores[i] == cores[me];
  return count;
}

Hosts find_hosts(Communicator& world) {
  const Json mine = {host_name(), host_name() + " " + host_identity(), core_list()};
  Hosts hosts;
  std::vector<std::string> identities;
  for (const Json& facts : gather_json(world, mine)) {
    const std::string identity = facts.at(1);
    auto found = std::find(identities.begin(), identities.end(), identity);
    if (found == identities.end()) {
      found = identities.insert(found, identity);
      hosts.names.push_back(facts.at(0));
    }
    const int host = int(found - identities.begin());
    hosts.place.push_back(hosts.ranks_of(host));
    hosts.of_rank.push_back(host);
    hosts.cores.push_back(facts.at(2));
  }
  return hosts;
}

std::vector<Report> examine(Communicator& world, const Hosts& hosts) {
  const auto facts = gather_json(world, own_facts(hosts, world.rank(), world.size()));
  std::vector<Report> reports;
  for (size_t rank = 0; rank < facts.size(); ++rank) {
    for (const Finding& finding : findings_from_json(facts[rank].at("findings"))) {
      reports.push_back({finding, int(rank), hosts.names[size_t(hosts.of_rank[rank])]});
    }
  }
  for (const Finding& finding : job_findings(facts, hosts, world)) {
    reports.push_back({finding, 0, hosts.names.front()});
  }
  return reports;
}

std::vector<Findings> gather_findings(Communicator& world, const Findings& mine) {
  std::vector<Findings> all;
  for (const Json& findings : gather_json(world, to_json(mine))) all.push_back(findings_from_json(findings));
  return all;
}

}  // namespace frameshard
