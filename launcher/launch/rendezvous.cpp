#include "launcher/launch/rendezvous.h"

#include <algorithm>
#include <csignal>
#include <functional>

#include <fmt/ranges.h>
#include <poll.h>

#include "core/log.h"

namespace frameshard {
namespace {

using Clock = std::chrono::steady_clock;

// Measures from its making; says when another 10 seconds have gone by.
class Patience {
 public:
  explicit Patience(double seconds) : limit_(seconds) {}
  double spent() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  bool over() const { return spent() >= limit_; }
  bool time_for_a_line() {
    if (spent() < next_line_) return false;
    next_line_ += 10;
    return true;
  }

 private:
  double limit_, next_line_ = 10;
  Clock::time_point start_ = Clock::now();
};

void stop_on_signal(SignalPipe& signals) {
  for (const int signal : signals.take()) {
    if (signal != SIGCHLD) throw Interrupted{signal};
  }
}

void wait_for(std::vector<pollfd> descriptors, SignalPipe& signals, int milliseconds) {
  descriptors.push_back({.fd = signals.descriptor(), .events = POLLIN, .revents = 0});
  poll(descriptors.data(), descriptors.size(), milliseconds);
  stop_on_signal(signals);
}

constexpr double handshake_seconds = 5;
constexpr size_t most_strangers = 64;

// Node 0's side of the rendezvous.
class Reception {
 public:
  Reception(const LaunchOptions& options, const NodeFacts& mine, const Token& token, SignalPipe& signals,
            std::vector<JoinedNode>& nodes)
      : options_(options),
        mine_(mine),
        token_(token),
        signals_(signals),
        listener_(listen_on(options.master_addr, options.master_port)),
        patience_(options.rdzv_timeout),
        joined_(nodes) {}

  // Returns the port.
  int run() {
    log::info("node 0 waits at {}:{} for {}", options_.master_addr, port_of(listener_), missing());
    try {
      while (int(joined_.size()) < options_.nodes - 1) step();
    } catch (const Error& error) {
      send_end(joined_, int(error.code()), error.what());
      throw;
    } catch (const Interrupted& interrupted) {
      send_end(joined_, 128 + interrupted.signal, "node 0 was ended by a signal");
      throw;
    }
    std::sort(joined_.begin(), joined_.end(), [](auto& a, auto& b) { return a.facts.rank < b.facts.rank; });
    return port_of(listener_);
  }

 private:
  void step() {
    std::vector<pollfd> descriptors{{.fd = listener_.descriptor(), .events = POLLIN, .revents = 0}};
    for (const auto& link : newcomers_)
      descriptors.push_back({.fd = link->socket().descriptor(), .events = POLLIN, .revents = 0});
    for (const auto& node : joined_)
      descriptors.push_back({.fd = node.link->socket().descriptor(), .events = POLLIN, .revents = 0});
    wait_for(descriptors, signals_, 500);
    greet();
    std::erase_if(newcomers_, [&](auto& link) { return hear_newcomer(link); });
    const bool beat = Clock::now() >= next_beat_;
    if (beat) next_beat_ = Clock::now() + std::chrono::seconds(1);
    std::erase_if(joined_, [&](auto& node) { return !still_there(node, beat); });
    if (stop_signal_ != 0) throw Interrupted{stop_signal_};
    if (patience_.over() && int(joined_.size()) < options_.nodes - 1) {
      fail(ExitCode::unavailable,
           "after {:.0f} s {} not joined at {}:{}; start them, or wait longer with --rdzv-timeout",
           options_.rdzv_timeout, missing() + (missing_ranks().size() == 1 ? " has" : " have"),
           options_.master_addr, port_of(listener_));
    }
    if (patience_.time_for_a_line()) log::info("still waiting for {}", missing());
  }

  std::vector<int> missing_ranks() const {
    std::vector<int> ranks;
    for (int rank = 1; rank < options_.nodes; ++rank) {
      if (std::none_of(joined_.begin(), joined_.end(), [&](auto& node) { return node.facts.rank == rank; }))
        ranks.push_back(rank);
    }
    return ranks;
  }

  std::string missing() const {
    const auto ranks = missing_ranks();
    return fmt::format("node{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
  }

  // Where strangers keep all places, the one that has had its place longest gives it up.
  void greet() {
    std::string peer;
    for (Socket connection = accept_from(listener_, &peer); connection.open();
         connection = accept_from(listener_, &peer)) {
      if (newcomers_.size() == most_strangers) newcomers_.erase(newcomers_.begin());
      try {
        newcomers_.push_back(std::make_unique<Link>(std::move(connection), Link::Side::master, token_, peer));
      } catch (const LinkLost&) {  // gone again
      }
    }
  }

  // True when this connection is done with: it joined, or was no node of this job.
  bool hear_newcomer(std::unique_ptr<Link>& link) {
    try {
      for (const Json& message : link->receive()) {
        if (!message.contains("join")) continue;
        admit(std::move(link), node_facts(message["join"]));
        return true;
      }
      if (link->age_seconds() < handshake_seconds) return false;
      log::warning("a connection from {} did not join and was closed", link->peer());
    } catch (const TokenRefused& refused) {
      log::warning("a connection was refused: {}", refused.what());
    } catch (const LinkLost& lost) {
      log::warning("a connection was closed: {}", lost.what());
    }
    return true;
  }

  void admit(std::unique_ptr<Link> link, const NodeFacts& facts) {
    if (facts.id != mine_.id) {
      log::warning("host {} waits for the job \"{}\" and was sent away", facts.host, facts.id);
      link->send(
          {{"end", int(ExitCode::config)},
           {"message", fmt::format("this is the job \"{}\", not \"{}\" (--rdzv-id)", mine_.id, facts.id)}});
      link->close_gently();
      return;
    }
    link->rename(fmt::format("node {} (host {}, {})", facts.rank, facts.host, facts.address));
    JoinedNode node{.facts = facts, .link = std::move(link)};
    try {
      check_nodes_fit(mine_, facts);
      for (const JoinedNode& other : joined_) check_nodes_fit(other.facts, facts);
    } catch (const Error& error) {
      node.link->send({{"end", int(error.code())}, {"message", error.what()}});
      node.link->close_gently();
      throw;
    }
    log::info("{} joined with {} rank{}", node.link->peer(), facts.ranks, facts.ranks == 1 ? "" : "s");
    joined_.push_back(std::move(node));
  }

  bool still_there(JoinedNode& node, bool beat) {
    try {
      for (const Json& message : node.link->receive()) {
        if (message.contains("stop")) stop_signal_ = message.at("stop") == SIGTERM ? SIGTERM : SIGINT;
      }
      if (node.link->silent_seconds() > silence_limit_seconds)
        throw LinkLost(node.link->peer() + " is silent");
      if (beat) node.link->send({{"waiting", missing()}});
      return true;
    } catch (const LinkLost& lost) {
      log::warning("{}", lost.what());
      return false;
    }
  }

  const LaunchOptions& options_;
  const NodeFacts& mine_;
  const Token& token_;
  SignalPipe& signals_;
  Socket listener_;
  Patience patience_;
  Clock::time_point next_beat_ = Clock::now();
  int stop_signal_ = 0;  // that a node has been sent
  std::vector<std::unique_ptr<Link>> newcomers_;
  std::vector<JoinedNode>& joined_;
};

// Waits until node 0 accepts the token. Throws LinkLost where it is something else that answers.
std::unique_ptr<Link> prove(Socket socket, const std::string& master, const Token& token,
                            SignalPipe& signals) {
  auto link = std::make_unique<Link>(std::move(socket), Link::Side::node, token, master);
  while (!link->proved()) {
    wait_for({{.fd = link->socket().descriptor(), .events = POLLIN, .revents = 0}}, signals, 500);
    link->receive();
    if (link->silent_seconds() > handshake_seconds)
      throw LinkLost(fmt::format("{} accepts connections and says nothing", master));
  }
  return link;
}

}  // namespace

int wait_for_nodes(const LaunchOptions& options, const NodeFacts& mine, const Token& token,
                   SignalPipe& signals, std::vector<JoinedNode>& nodes) {
  return Reception(options, mine, token, signals, nodes).run();
}

std::unique_ptr<Link> join_master(const LaunchOptions& options, NodeFacts& mine, const Token& token,
                                  SignalPipe& signals) {
  const std::string master = fmt::format("node 0 at {}:{}", options.master_addr, options.master_port);
  Patience patience(options.rdzv_timeout);
  for (;;) {
    Dialled dialled = dial(options.master_addr, options.master_port, 2);
    if (dialled.socket.open()) {
      mine.address = options.local_addr.empty() ? own_address(dialled.socket) : resolve(options.local_addr);
      try {
        auto link = prove(std::move(dialled.socket), master, token, signals);
        link->send({{"join", to_json(mine)}});
        return link;
      } catch (const LinkLost& lost) {
        dialled.error = lost.what();
      }
    }
    if (patience.over()) {
      fail(ExitCode::unavailable,
           "{} cannot be reached after {:.0f} s: {}; is node 0 started, and does a firewall let the port "
           "through?",
           master, options.rdzv_timeout, dialled.error);
    }
    log::debug("{} does not answer yet: {}", master, dialled.error);
    if (patience.time_for_a_line()) log::info("still waiting for {}: {}", master, dialled.error);
    wait_for({}, signals, 300);
  }
}

void send_end(std::vector<JoinedNode>& nodes, int code, const std::string& message) {
  const auto on_each = [&](const std::function<void(Link&)>& action) {
    for (JoinedNode& node : nodes) {
      try {
        action(*node.link);
      } catch (const LinkLost&) {  // it has ended by itself
      }
    }
  };
  // All are told before the first is waited for.
  on_each([&](Link& link) { link.send({{"end", code}, {"message", message}}); });
  on_each([](Link& link) { link.close_gently(); });
}

Token job_token(const LaunchOptions& options, SignalPipe& signals) {
  const auto path = token_file(options.token_file);
  Patience patience(options.rdzv_timeout);
  for (bool told = false;; told = true) {
    if (const auto token = find_token(options.token_file)) return *token;
    if (options.node_rank == 0) {
      const Token token = make_token(options.token_file);
      log::info(
          "made {}: the other nodes need the same token (a shared home directory, a copy, or "
          "FRAMESHARD_TOKEN)",
          path.string());
      return token;
    }
    if (!told)
      log::info("no token yet at {}: copy it from node 0, or set FRAMESHARD_TOKEN; waiting for it",
                path.string());
    if (patience.over()) {
      fail(ExitCode::refused,
           "no token at {} after {:.0f} s; copy node 0's there (mode 0600), or set FRAMESHARD_TOKEN on all "
           "nodes",
           path.string(), options.rdzv_timeout);
    }
    wait_for({}, signals, 300);
  }
}

}  // namespace frameshard
