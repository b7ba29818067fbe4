// The commands of the program. Each returns the exit code, or throws Error.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/bench/options.h"
#include "launcher/launch/options.h"
#include "launcher/observe/options.h"

namespace frameshard {

struct RunOptions {
  std::string config;
  std::vector<std::string> overrides;
  bool fail_fast = false;
  ObserveOptions observe;
};
/// The arguments of `run`, for the command line and for `launch`, which reads them before it starts anything.
void add_run_options(CLI::App& command, RunOptions& options);

/// `frameshard run CONFIG [key=value ...]`: this process is one rank, or all of them as threads.
int run_command(const RunOptions& options);

struct TrainOptions {
  std::string config;
  std::vector<std::string> overrides;
  bool plan = false;  ///< print it, and do nothing
  std::optional<int>
      world;  ///< of the plan: ranks; left out: launcher/plan_world.h, else as it would be here
  std::string device = "auto";  ///< of the plan: a name of parallel/hardware.h; auto: what is here
};
/// The arguments of `train`, as add_run_options().
void add_train_options(CLI::App& command, TrainOptions& options);

/// `frameshard train CONFIG [key=value ...]`: started as `run` is.
int train_command(const TrainOptions& options);

/// `frameshard launch --nproc-per-node N run CONFIG ...`: starts the ranks through mpirun, on this node or,
/// as one of several launchers, on all of them.
int launch_command(LaunchOptions options);

struct PlanOptions {
  std::optional<int> world, nodes, ranks_per_node;  ///< what is left out: launcher/plan_world.h
  std::string device = "auto";                      ///< or a name of parallel/hardware.h
  std::string interconnect;                         ///< likewise; empty: what is usual for the device
  bool json = false, all = false;
};
/// `frameshard plan CONFIG --world N`: prints the plan; makes no tensor. 64 for numbers that do not fit
/// together and unknown names.
int plan_command(const std::string& config, const std::vector<std::string>& overrides,
                 const PlanOptions& options);

struct DoctorOptions {
  double seconds = 2;   ///< to measure the exchange in, altogether
  double timeout = 30;  ///< to wait for other ranks at one place
};
/// `frameshard doctor [CONFIG]`: what of MPI, GPUs, network, limits and versions is wrong, and the cure. 69
/// where something is to change. `config` may be empty.
int doctor_command(const std::string& config, const std::vector<std::string>& overrides,
                   const DoctorOptions& options);

/// `frameshard bench`: measures how a denoising step scales over ranks, and prints tables. Started alone it
/// starts itself again through `frameshard launch`, a rank a device. 64 for what cannot be measured, 71 where
/// it does not fit into the memory, 74 where a file cannot be written, 69 without gnuplot for --plot: all of
/// it before anything is measured.
int bench_command(const BenchOptions& options);

/// `frameshard devices`
int devices_command();

/// `frameshard keys`: every configuration key of `run`, or of `train`, with its type, default and meaning.
int keys_command(bool train);

}  // namespace frameshard
