#include "launcher/launch/node.h"

#include <csignal>

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/log.h"
#include "launcher/launch/job_space.h"
#include "launcher/launch/rank_environment.h"
#include "launcher/launch/rank_watch.h"

namespace frameshard {
namespace {

using Clock = std::chrono::steady_clock;

class NodeService {
 public:
  NodeService(const LaunchOptions& options, const OpenMpi& mpi, Link& master, SignalPipe& signals)
      : options_(options), mpi_(mpi), master_(master), signals_(signals) {}

  int run() {
    adopt_orphans();
    try {
      while (!end_) step();
    } catch (const LinkLost& lost) {
      hear_last_words();
      if (!end_) log::print(fmt::format("FAILED: lost node 0: {}\n", lost.what()));
      end_ = end_.value_or(int(ExitCode::unavailable));
    }
    end_descendants(2);
    return *end_;
  }

 private:
  void step() {
    std::vector<pollfd> waiting{{.fd = master_.socket().descriptor(), .events = POLLIN, .revents = 0},
                                {.fd = signals_.descriptor(), .events = POLLIN, .revents = 0}};
    if (ranks_) ranks_->add_descriptors(waiting);
    poll(waiting.data(), waiting.size(), 200);
    if (ranks_ && rank_ended_.empty()) {
      rank_ended_ = ranks_->first_ended();
      if (!rank_ended_.empty()) master_.send({{"rank_ended", rank_ended_}});
    }
    for (const int signal : signals_.take()) {
      if (signal != SIGCHLD) pass_on(signal);
    }
    reap();
    for (const Json& message : master_.receive()) hear(message);
    if (master_.silent_seconds() > silence_limit_seconds) {
      throw LinkLost(
          fmt::format("no word for {:.0f} s; the network or the host is down", silence_limit_seconds));
    }
    if (Clock::now() < next_beat_) return;
    next_beat_ = Clock::now() + std::chrono::seconds(1);
    if (!end_) master_.send({{"beat", 0}});
  }

  // A message to node 0 that fails may have crossed its end of the job.
  void hear_last_words() {
    try {
      for (const Json& message : master_.receive()) hear(message);
    } catch (const LinkLost&) {
    }
  }

  // Node 0 ends the whole job; a second signal does not wait for it.
  void pass_on(int signal) {
    if (std::exchange(asked_to_stop_, true)) {
      end_ = 128 + signal;
      return;
    }
    master_.send({{"stop", signal}});
  }

  void reap() {
    int status = 0;
    for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
      if (pid != daemon_) continue;
      daemon_ = -1;
      master_.send({{"daemon_exit", exit_code_of(status)}, {"killed", WIFSIGNALED(status)}});
    }
  }

  void hear(const Json& message) {
    try {
      if (message.contains("waiting") && Clock::now() >= next_line_) {
        next_line_ = Clock::now() + std::chrono::seconds(10);
        log::info("node 0 is still waiting for {}", message.value("waiting", ""));
      }
      if (message.contains("prepare")) prepare(message);
      if (message.contains("daemon")) start_daemon(message["daemon"].get<std::vector<std::string>>());
      if (message.contains("cancel")) cancel();
      if (message.contains("end")) end(message);
    } catch (const LinkLost&) {
      throw;
    } catch (const Error& error) {
      log::print(fmt::format("FAILED: {}\n", error.what()));
      master_.send({{"failed", int(error.code())}, {"message", error.what()}});
    } catch (const Json::exception& error) {
      throw LinkLost(fmt::format("node 0 sent a message that cannot be read: {}", error.what()));
    }
  }

  void prepare(const Json& message) {
    const std::string id = message.at("prepare");
    require(id.size() == 16 && id.find_first_not_of("0123456789abcdef") == std::string::npos,
            "the job's id is \"{}\"", id);
    attempt_ = message.at("attempt");
    master_address_ = message.at("address");
    space_.emplace(id);
    ranks_.emplace(space_->scratch() / "ranks");
    rank_ended_.clear();
    master_.send({{"ready", id}});
  }

  void start_daemon(const std::vector<std::string>& words) {
    require(space_ && daemon_ < 0, "a daemon was asked for out of turn");
    daemon_ = start_process(daemon_command(mpi_, words, master_address_),
                            rank_environment(options_, attempt_, ranks_->directory()));
  }

  void cancel() {
    end_descendants(2);
    reap();
    daemon_ = -1;
    ranks_.reset();
    space_.reset();
  }

  void end(const Json& message) {
    end_ = message.at("end");
    if (*end_ != 0) log::print(fmt::format("FAILED: node 0 says: {}\n", message.value("message", "")));
  }

  const LaunchOptions& options_;
  const OpenMpi& mpi_;
  Link& master_;
  SignalPipe& signals_;
  std::optional<JobSpace> space_;
  std::optional<RankWatch> ranks_;
  std::string rank_ended_;
  pid_t daemon_ = -1;
  int attempt_ = 0;
  std::string master_address_;  // for MPI; --master-addr is the rendezvous's
  bool asked_to_stop_ = false;
  std::optional<int> end_;
  Clock::time_point next_beat_ = Clock::now(), next_line_ = Clock::now() + std::chrono::seconds(10);
};

}  // namespace

int serve_master(const LaunchOptions& options, const OpenMpi& mpi, Link& master, SignalPipe& signals) {
  return NodeService(options, mpi, master, signals).run();
}

}  // namespace frameshard
