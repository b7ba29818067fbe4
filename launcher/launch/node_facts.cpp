#include "launcher/launch/node_facts.h"

#include <algorithm>

#include "core/error.h"

namespace frameshard {

Json to_json(const NodeFacts& facts) {
  return {{"id", facts.id},          {"rank", facts.rank}, {"nodes", facts.nodes},
          {"ranks", facts.ranks},    {"host", facts.host}, {"address", facts.address},
          {"engine", facts.engine},  {"mpi", facts.mpi},   {"executable", facts.executable},
          {"program", facts.program}};
}

NodeFacts node_facts(const Json& json) {
  try {
    return {.id = json.at("id"),
            .rank = json.at("rank"),
            .nodes = json.at("nodes"),
            .ranks = json.at("ranks"),
            .host = json.at("host"),
            .address = json.at("address"),
            .engine = json.at("engine"),
            .mpi = json.at("mpi"),
            .executable = json.at("executable"),
            .program = json.at("program")};
  } catch (const Json::exception& error) {
    throw LinkLost(fmt::format("a node joined with a message that cannot be read: {}", error.what()));
  }
}

void check_nodes_fit(const NodeFacts& mine, const NodeFacts& other) {
  const std::string us = fmt::format("node {} (host {})", mine.rank, mine.host);
  const std::string them = fmt::format("node {} (host {}, {})", other.rank, other.host, other.address);
  if (other.nodes != mine.nodes) {
    fail(ExitCode::config, "{} was started with --nnodes {}, {} with {}", us, mine.nodes, them, other.nodes);
  }
  if (other.rank < 1 || other.rank >= other.nodes) {
    fail(ExitCode::config, "{} has a --node-rank outside 1 to {}", them, other.nodes - 1);
  }
  if (other.rank == mine.rank) {
    fail(ExitCode::config, "{} and {} have the same --node-rank; give each node its own", us, them);
  }
  if (other.host == mine.host) {
    fail(ExitCode::config,
         "{} and {} have the same host name, which MPI cannot tell apart; set another host name (containers: "
         "--hostname)",
         us, them);
  }
  if (other.address == mine.address) {
    fail(ExitCode::config, "{} and {} have the same address for MPI; give each its own with --local-addr", us,
         them);
  }
  if (other.engine != mine.engine || other.mpi != mine.mpi) {
    fail(ExitCode::disagree,
         "{} has frameshard {} and Open MPI {}, {} has frameshard {} and Open MPI {}; install the same on "
         "all nodes",
         us, mine.engine, mine.mpi, them, other.engine, other.mpi);
  }
  for (size_t i = 0; i < std::max(mine.program.size(), other.program.size()); ++i) {
    auto word = [&](const NodeFacts& facts) {
      return i < facts.program.size() ? "\"" + facts.program[i] + "\"" : "nothing";
    };
    if (word(mine) == word(other)) continue;
    fail(ExitCode::disagree, "{} was started with {} where {} has {}; give all nodes the same command", us,
         word(mine), them, word(other));
  }
}

}  // namespace frameshard
