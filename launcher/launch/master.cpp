#include "launcher/launch/master.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>

#include <fmt/ranges.h>
#include <poll.h>
#include <sys/wait.h>

#include "core/log.h"
#include "launcher/failure.h"
#include "launcher/launch/agent.h"
#include "launcher/launch/daemons.h"
#include "launcher/launch/job_space.h"
#include "launcher/launch/rank_environment.h"
#include "launcher/launch/rank_watch.h"
#include "launcher/launch/verdict.h"
#include "launcher/ranks.h"

namespace frameshard {
namespace {

using Clock = std::chrono::steady_clock;
using Deadline = std::optional<Clock::time_point>;

Clock::time_point in_seconds(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}
bool passed(const Deadline& deadline) {
  return deadline && Clock::now() >= *deadline;
}

// How long mpirun and its daemons have to end after they were told to, before they are killed.
constexpr double end_seconds = 2;

// One start of mpirun.
class Attempt {
 public:
  Attempt(const MasterSettings& settings, std::vector<JoinedNode>& nodes, SignalPipe& signals, int number)
      : settings_(settings),
        nodes_(nodes),
        signals_(signals),
        number_(number),
        id_(random_text().substr(0, 16)),
        space_(id_),
        ranks_(space_.scratch() / "ranks"),
        ready_(nodes.size(), false),
        lost_(nodes.size(), false),
        daemons_(agent_socket(), nodes, [this](size_t node, const Json& words) {
          tell(node, {{"daemon", words}});
        }) {}

  int run() {
    tell_nodes({{"prepare", id_}, {"attempt", number_}, {"address", settings_.mine.address}});
    while (!all_ready() && !failure_ && stop_signal_ == 0) step();
    if (all_ready() && !failure_ && stop_signal_ == 0) {
      start();
      while (!status_) step();
      // Daemons end a moment before mpirun; their last word is on its way.
      const Deadline patience = in_seconds(end_seconds);
      while (!daemons_.all_ended() && !failure_ && !passed(patience)) step();
    }
    tell_nodes({{"cancel", id_}});
    end_descendants(end_seconds);
    return result();
  }

  bool lost(size_t node) const { return lost_[node]; }
  bool stopped() const { return stop_signal_ != 0; }

 private:
  bool all_ready() const {
    return std::all_of(ready_.begin(), ready_.end(), [](bool each) { return each; });
  }

  void start() {
    if (!settings_.options.log_dir.empty()) {
      log::info("the ranks' output is in {}/<rank>/", log_directory(settings_.options, number_).string());
    }
    const auto agent = space_.scratch() / agent_name;
    std::filesystem::create_symlink(settings_.mine.executable, agent);
    MpiJob job{.nodes = {{settings_.mine.address, settings_.mine.ranks}},
               .network = shared_network(),
               .agent = agent.string(),
               .scratch = space_.scratch().string(),
               .shared_memory = space_.shared_memory().string(),
               .program = {settings_.mine.executable}};
    for (const JoinedNode& node : nodes_) job.nodes.push_back({node.facts.address, node.facts.ranks});
    job.program.insert(job.program.end(), settings_.mine.program.begin(), settings_.mine.program.end());
    Environment environment = rank_environment(settings_.options, number_, ranks_.directory());
    environment.emplace_back("FRAMESHARD_AGENT_SOCKET", agent_socket().string());
    environment.emplace_back(last_line_variable, last_line_file().string());
    environment.emplace_back(ranks_met_variable, ranks_met_file().string());
    if (!nodes_.empty()) meet_deadline_ = in_seconds(settings_.options.rdzv_timeout);
    mpirun_ = start_process(mpirun_command(settings_.mpi, job), environment);
  }

  // MPI would otherwise try every interface, also those that the other nodes do not see.
  std::string shared_network() const {
    const auto network = nodes_.empty() ? std::nullopt : network_of(settings_.mine.address);
    const bool shared = network && std::all_of(nodes_.begin(), nodes_.end(), [&](auto& node) {
                          return in_network(node.facts.address, *network);
                        });
    return shared ? *network : "";
  }

  void step() {
    std::vector<pollfd> waiting{{.fd = signals_.descriptor(), .events = POLLIN, .revents = 0}};
    for (const JoinedNode& node : nodes_)
      waiting.push_back({.fd = node.link->socket().descriptor(), .events = POLLIN, .revents = 0});
    daemons_.add_descriptors(waiting);
    ranks_.add_descriptors(waiting);
    poll(waiting.data(), waiting.size(), 200);
    note_ended(ranks_.first_ended());
    take_signals();
    hear_nodes();
    hear_agents();
    beat();
    if (passed(meet_deadline_)) check_ranks_met();
    if (passed(stop_deadline_)) end_mpirun();
    if (passed(kill_deadline_)) kill_all();
  }

  void take_signals() {
    for (const int signal : signals_.take()) {
      if (signal != SIGCHLD) stop(signal);
    }
    int status = 0;
    for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
      if (pid == mpirun_) status_ = status;
    }
  }

  // SIGTERM, SIGUSR1 and ^C let the ranks end after the step that they are in: mpirun passes SIGUSR1 on to
  // all at once, and at a SIGTERM would kill them one host after the other. A second signal and a closed
  // terminal do not wait.
  void stop(int signal) {
    const bool gentle = signal != SIGHUP && stop_signal_ == 0;
    stop_signal_ = signal;
    meet_deadline_.reset();
    if (mpirun_ <= 0 || status_) return;  // not there yet, or not any more
    if (!gentle) return end_mpirun();
    log::info("stopping: the ranks have {:.0f} s to end in order; a second signal ends them at once",
              settings_.options.stop_grace);
    kill(mpirun_, SIGUSR1);
    stop_deadline_ = in_seconds(settings_.options.stop_grace);
  }

  bool ranks_met() const { return std::filesystem::exists(ranks_met_file()); }

  std::string not_met() const {
    std::vector<std::string> addresses{settings_.mine.address};
    for (const JoinedNode& node : nodes_) addresses.push_back(node.facts.address);
    return fmt::format(
        "the ranks have not met; can MPI connect {} on any port? See --local-addr and the firewall",
        fmt::join(addresses, " and "));
  }

  // mpirun waits for ever for a daemon whose messages are dropped, and so do ranks for each other.
  void check_ranks_met() {
    meet_deadline_.reset();
    if (status_ || ranks_met()) return;
    give_up(int(ExitCode::unavailable), fmt::format("after {:.0f} s {}, or wait longer with --rdzv-timeout",
                                                    settings_.options.rdzv_timeout, not_met()));
  }

  void end_mpirun() {
    stop_deadline_.reset();
    if (mpirun_ > 0 && !status_) kill(mpirun_, SIGTERM);
    if (!kill_deadline_) kill_deadline_ = in_seconds(end_seconds);
  }

  void kill_all() {
    kill_deadline_.reset();
    if (mpirun_ > 0 && !status_) kill(mpirun_, SIGKILL);
  }

  void give_up(int code, const std::string& message) {
    if (failure_) return;
    failure_ = code;
    log::print(fmt::format("FAILED: {}\n", message));
    end_mpirun();
  }

  void lose(size_t node, const std::string& how) {
    lost_[node] = true;
    give_up(int(ExitCode::unavailable), fmt::format("lost {}: {}", nodes_[node].link->peer(), how));
  }

  void tell_nodes(const Json& message) {
    for (size_t i = 0; i < nodes_.size(); ++i) tell(i, message);
  }
  void tell(size_t node, const Json& message) {
    try {
      nodes_[node].link->send(message);
    } catch (const LinkLost& lost) {
      lose(node, lost.what());
    }
  }

  void beat() {
    if (Clock::now() < next_beat_) return;
    next_beat_ = in_seconds(1);
    tell_nodes({{"beat", number_}});
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (nodes_[i].link->silent_seconds() > silence_limit_seconds) {
        lose(i, fmt::format("no word for {:.0f} s; the network or the host is down", silence_limit_seconds));
      }
    }
  }

  void hear_nodes() {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      try {
        for (const Json& message : nodes_[i].link->receive()) hear(i, message);
      } catch (const LinkLost& lost) {
        lose(i, lost.what());
      } catch (const Json::exception& error) {
        lose(i, fmt::format("a message cannot be read: {}", error.what()));
      }
    }
  }

  void hear(size_t node, const Json& message) {
    if (message.value("ready", "") == id_) ready_[node] = true;
    if (message.contains("stop")) stop(stop_signal_of(message.at("stop")));
    if (message.contains("rank_ended")) note_ended(message.at("rank_ended"));
    if (message.contains("failed")) {
      const int code = message.at("failed");
      give_up(code > 0 && code < 128 ? code : int(ExitCode::unavailable),
              fmt::format("{}: {}", nodes_[node].link->peer(), message.value("message", "")));
    }
    if (message.contains("daemon_exit")) {
      daemons_.ended(node, message.value("daemon_exit", 1), message.value("killed", false));
    }
  }

  // Whatever a node sends, one of those that a launcher takes.
  static int stop_signal_of(int signal) {
    return signal == SIGTERM || signal == SIGHUP || signal == SIGUSR1 ? signal : SIGINT;
  }
  // The first one is kept: mpirun ends the others for it.
  void note_ended(const std::string& rank) {
    if (first_ended_.empty()) first_ended_ = rank;
  }

  void hear_agents() {
    try {
      daemons_.hear(/*mpirun_runs=*/!status_);
    } catch (const Error& error) {
      give_up(int(error.code()), error.what());
    }
  }

  std::filesystem::path agent_socket() const { return space_.scratch() / "agent.sock"; }
  std::filesystem::path ranks_met_file() const { return space_.scratch() / "met"; }
  std::filesystem::path last_line_file() const { return space_.scratch() / "last-line"; }

  int result() {
    if (failure_) return *failure_;
    JobEnd end{.status = status_,
               .stop_signal = stop_signal_,
               .several_nodes = !nodes_.empty(),
               .ranks_met = ranks_met(),
               .reported = ranks_.reported(),
               .not_met = not_met(),
               .first_ended = first_ended_,
               .lost_daemon = daemons_.lost(status_ ? exit_code_of(*status_) : 0)};
    std::getline(std::ifstream(last_line_file()), end.last_line);  // the first rank is one of this node
    const JobVerdict verdict = verdict_on(end);
    if (!verdict.line.empty()) log::print(verdict.line + "\n");
    return verdict.code;
  }

  const MasterSettings& settings_;
  std::vector<JoinedNode>& nodes_;
  SignalPipe& signals_;
  int number_;
  std::string id_;
  JobSpace space_;
  RankWatch ranks_;
  std::vector<bool> ready_, lost_;
  Daemons daemons_;
  pid_t mpirun_ = -1;
  std::optional<int> status_, failure_;  // mpirun's wait status; a code that stands over it
  Deadline meet_deadline_, stop_deadline_, kill_deadline_;
  std::string first_ended_;  // of the ranks of all nodes, as far as it is known
  Clock::time_point next_beat_ = Clock::now();
  int stop_signal_ = 0;
};

}  // namespace

bool worth_a_restart(int exit_code) {
  switch (ExitCode(exit_code)) {
    case ExitCode::internal:
    case ExitCode::unavailable:
    case ExitCode::out_of_memory:
    case ExitCode::hang:
      return true;
    default:
      return exit_code > 128;
  }
}

int run_job(const MasterSettings& settings, std::vector<JoinedNode>& nodes, SignalPipe& signals) {
  adopt_orphans();
  for (int number = 0;; ++number) {
    std::vector<JoinedNode> kept;
    {
      Attempt attempt(settings, nodes, signals, number);
      const int code = attempt.run();
      if (number == settings.options.max_restarts || !worth_a_restart(code) || attempt.stopped()) {
        send_end(nodes, code, code == 0 ? "" : fmt::format("the job ended with {}", code));
        return code;
      }
      log::warning("ended with {}; restart {} of {}", code, number + 1, settings.options.max_restarts);
      for (size_t i = 0; i < nodes.size(); ++i) {
        if (!attempt.lost(i)) kept.push_back(std::move(nodes[i]));
      }
    }
    nodes = std::move(kept);
    if (int(nodes.size()) < settings.options.nodes - 1) settings.wait_for_nodes(nodes);
  }
}

}  // namespace frameshard
