// What the launcher of a node says of itself when it joins a job, and whether nodes fit together.
#pragma once

#include <string>
#include <vector>

#include "launcher/launch/link.h"

namespace frameshard {

/// What a node says of itself when it joins.
struct NodeFacts {
  std::string id;  ///< of the job, --rdzv-id
  int rank = 0, nodes = 1, ranks = 1;
  std::string host, address;
  std::string engine, mpi;  ///< versions
  std::string executable;
  std::vector<std::string> program;
};
Json to_json(const NodeFacts& facts);
/// Throws LinkLost where it cannot be read.
NodeFacts node_facts(const Json& json);

/// Throws 78 or 76 where `other` cannot be part of a job with `mine`.
void check_nodes_fit(const NodeFacts& mine, const NodeFacts& other);

}  // namespace frameshard
