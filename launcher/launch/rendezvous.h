// How the launchers of a job's nodes find each other: node 0 listens, the others dial.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launcher/launch/node_facts.h"
#include "launcher/launch/options.h"
#include "launcher/launch/process.h"

namespace frameshard {

/// A node that has joined, as node 0 sees it.
struct JoinedNode {
  NodeFacts facts;
  std::unique_ptr<Link> link;
};

/// A signal ended the wait.
struct Interrupted {
  int signal;
};

/// Node 0: listens on --master-addr alone until all other nodes are among `nodes` (those that are there
/// already stay), in order of node rank. Throws 69 after --rdzv-timeout (saying who is missing), 76 and 78
/// for nodes that do not fit, which end with the same code. Strangers are refused with one line each; the job
/// does not notice them. Returns the port, another one than --master-port where that is 0.
int wait_for_nodes(const LaunchOptions& options, const NodeFacts& mine, const Token& token,
                   SignalPipe& signals, std::vector<JoinedNode>& nodes);

/// The other nodes: dials until node 0 answers, at most --rdzv-timeout, and proves the token; `mine.address`
/// is filled in.
std::unique_ptr<Link> join_master(const LaunchOptions& options, NodeFacts& mine, const Token& token,
                                  SignalPipe& signals);

/// A node that has said nothing for so long is lost; each says something every second.
constexpr double silence_limit_seconds = 10;

/// Tells nodes that the job has ended, with this code.
void send_end(std::vector<JoinedNode>& nodes, int code, const std::string& message);

/// The token, from where the options say; node 0 makes one where there is none. Others wait for the file,
/// which a shared home directory brings, until --rdzv-timeout; then 77.
Token job_token(const LaunchOptions& options, SignalPipe& signals);

}  // namespace frameshard
