// What every rank finds out about its own process and host, and what all ranks' facts say together.
#pragma once

#include <vector>

#include "launcher/doctor/finding.h"
#include "parallel/comm/communicator.h"

namespace frameshard {

/// Where the ranks of a job are, by host identity; the same on all ranks.
struct Hosts {
  std::vector<int> of_rank;        ///< host of each rank, numbered by first appearance
  std::vector<int> place;          ///< of each rank among those of its host
  std::vector<std::string> names;  ///< of each host
  std::vector<std::string> cores;  ///< of each rank: core_list()

  int ranks_of(int host) const;
  /// Ranks of the same host that may use the same cores as `rank`, itself included.
  int sharing(int rank) const;
};
/// Collective over `world`.
Hosts find_hosts(Communicator& world);

/// All findings about processes, hosts and the job, of all ranks; collective over `world`.
std::vector<Report> examine(Communicator& world, const Hosts& hosts);

/// Every rank's findings, on every rank; collective over `world`.
std::vector<Findings> gather_findings(Communicator& world, const Findings& mine);

}  // namespace frameshard
