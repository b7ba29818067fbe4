// The commands of the program. Each returns the exit code, or throws Error.
#pragma once

#include <string>
#include <vector>

namespace frameshard {

/// `frameshard run CONFIG [key=value ...]`: this process is one rank, or all of them as threads.
int run_command(const std::string& config, const std::vector<std::string>& overrides);

/// `frameshard launch --nproc-per-node N run CONFIG ...`: starts the ranks of one machine through mpirun.
int launch_command(const std::string& ranks, const std::vector<std::string>& program);

struct PlanOptions {
  int world = 1;
  int ranks_per_node = 0;
  std::string device = "auto";
};
/// `frameshard plan CONFIG --world N`: prints the plan; makes no tensor.
int plan_command(const std::string& config, const std::vector<std::string>& overrides,
                 const PlanOptions& options);

/// `frameshard devices`
int devices_command();

/// `frameshard keys`: every configuration key with its type, default and meaning.
int keys_command();

}  // namespace frameshard
