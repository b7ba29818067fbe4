#include <csignal>
#include <cstring>
#include <filesystem>
#include <numeric>

#include <CLI/CLI.hpp>

#include "core/cuda_module.h"
#include "core/error.h"
#include "core/host.h"
#include "core/log.h"
#include "core/version.h"
#include "launcher/commands/commands.h"
#include "launcher/flags.h"
#include "launcher/job.h"
#include "launcher/launch/master.h"
#include "launcher/launch/node.h"
#include "launcher/launch/open_mpi.h"
#include "launcher/launch/rendezvous.h"
#include "launcher/train/train_job.h"
#include "parallel/comm/mpi_session.h"

namespace frameshard {
namespace {

constexpr const char* startable[] = {"run", "train", "doctor", "bench"};

void check_program(const std::vector<std::string>& program) {
  const std::string word = program.empty() ? "" : program[0];
  if (word.starts_with("-"))
    fail(ExitCode::usage, "launch has no flag {}; frameshard launch --help lists them", word);
  if (std::find(std::begin(startable), std::end(startable), word) != std::end(startable)) return;
  fail(ExitCode::usage,
       "launch needs a command to start: frameshard launch --nproc-per-node 2 run CONFIG [key=value ...]{}",
       word.empty() ? "" : fmt::format("; \"{}\" is none", word));
}

// The options of a command that launch starts.
template <class Options>
Options parsed(const std::vector<std::string>& program, void (*add)(CLI::App&, Options&)) {
  CLI::App command{"", "frameshard " + program[0]};
  Options options;
  add(command, options);
  std::vector<std::string> words(program.rbegin(), program.rend() - 1);
  try {
    command.parse(words);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) {
      fail(ExitCode::usage, "{}: {}", program[0], usage_message(command, error));
    }
    throw;  // --help, which main prints
  }
  return options;
}

// What the command will read, read here first: its errors come once, before anything is started.
std::optional<Job> read_job(const std::vector<std::string>& program) {
  if (program[0] == "train") {
    const auto options = parsed<TrainOptions>(program, add_train_options);
    if (!options.plan) open_train_job(options.config, options.overrides);
  }
  if (program[0] != "run") return std::nullopt;
  const auto options = parsed<RunOptions>(program, add_run_options);
  return open_job(options.config, options.overrides, options.fail_fast);
}

// And what depends on the number of ranks.
void check_plan(const Job& job, int world, int ranks_per_node) {
  const RankPlace place{.local_size = ranks_per_node,
                        .under_mpi = true,
                        .cores = std::max(1, allowed_cores() / ranks_per_node)};
  const bool own_gpu = cuda() && ranks_per_node <= cuda()->device_count();
  const PlanMachine machine = describe_machine(job, place, world, ranks_per_node, own_gpu);
  make_plan(job.config, model_facts(job, machine.device), machine);
}

NodeFacts describe_node(const LaunchOptions& options, const OpenMpi& mpi) {
  NodeFacts facts{.id = options.rdzv_id,
                  .rank = options.node_rank,
                  .nodes = options.nodes,
                  .ranks = count_ranks(options.nproc_per_node),
                  .host = host_name(),
                  .address = "localhost",
                  .engine = engine_version(),
                  .mpi = mpi.release.text(),
                  .executable = std::filesystem::read_symlink("/proc/self/exe").string(),
                  .program = options.program};
  if (options.nodes > 1 && options.node_rank == 0) {
    facts.address = resolve(options.local_addr.empty() ? options.master_addr : options.local_addr);
  }
  return facts;
}

// With an mpirun of another version every rank would start as a job of its own.
void check_same_mpi(const OpenMpi& mpi) {
  const auto linked = parse_mpi_release(mpi_version());
  if (linked && linked->major == mpi.release.major) return;
  fail(ExitCode::unavailable, "{} is of {}, and this program uses {}; put that one's mpirun first on PATH",
       mpi.mpirun, mpi.release.text(), mpi_version());
}

int launch_as_master(const LaunchOptions& options, const std::optional<Job>& job, const OpenMpi& mpi,
                     SignalPipe& signals) {
  const NodeFacts mine = describe_node(options, mpi);
  if (options.nodes == 1 && job) check_plan(*job, mine.ranks, mine.ranks);
  if (options.nodes > 1) listen_on(options.master_addr, options.master_port);  // closed again
  // Before the others come: it may look at many videos of an earlier run.
  if (job) prepare_outputs(*job);
  std::vector<JoinedNode> nodes;
  const Token token = options.nodes > 1 ? job_token(options, signals) : Token{};
  LaunchOptions at_port = options;  // a node that comes back finds the same one
  const auto wait = [&](std::vector<JoinedNode>& joined) {
    at_port.master_port = wait_for_nodes(at_port, mine, token, signals, joined);
  };
  if (options.nodes > 1) wait(nodes);
  try {
    int world = mine.ranks, common = mine.ranks;
    for (const JoinedNode& node : nodes) {
      world += node.facts.ranks;
      common = std::gcd(common, node.facts.ranks);
    }
    if (job && !nodes.empty()) check_plan(*job, world, common);
    return run_job({.options = options, .mpi = mpi, .mine = mine, .wait_for_nodes = wait}, nodes, signals);
  } catch (const Error& error) {
    send_end(nodes, int(error.code()), error.what());
    throw;
  }
}

int launch_as_node(const LaunchOptions& options, const OpenMpi& mpi, SignalPipe& signals) {
  NodeFacts mine = describe_node(options, mpi);
  const Token token = job_token(options, signals);
  const auto master = join_master(options, mine, token, signals);
  return serve_master(options, mpi, *master, signals);
}

}  // namespace

int launch_command(LaunchOptions options) {
  check_launch_options(options);
  check_program(options.program);
  const int ranks = count_ranks(options.nproc_per_node);
  check_stream_ranks(options.redirects, ranks, "--redirects");
  check_stream_ranks(options.tee, ranks, "--tee");
  const OpenMpi mpi = find_open_mpi();
  check_same_mpi(mpi);
  const auto job = read_job(options.program);  // until it is read, a signal ends the launcher at once
  SignalPipe signals;
  try {
    return options.node_rank == 0 ? launch_as_master(options, job, mpi, signals)
                                  : launch_as_node(options, mpi, signals);
  } catch (const Interrupted& interrupted) {
    log::print(fmt::format("FAILED: ended by {}\n", strsignal(interrupted.signal)));
    return 128 + interrupted.signal;
  }
}

}  // namespace frameshard
