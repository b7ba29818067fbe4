// `frameshard launch`: torchrun's flags, and what they mean here.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace frameshard {

struct LaunchOptions {
  std::string nnodes = "1", nproc_per_node = "auto";
  int node_rank = -1;  ///< -1: not given
  std::string master_addr, rdzv_endpoint, rdzv_backend = "static", rdzv_id = "none", rdzv_conf, local_addr;
  int master_port = -1;
  double rdzv_timeout = -1, stop_grace = 30;  ///< seconds
  bool standalone = false;
  int max_restarts = 0;
  std::string redirects = "0", tee = "0", log_dir, token_file;
  std::vector<std::string> program;  ///< "run", CONFIG, ...

  // Solved by check_launch_options().
  int nodes = 1;
};

/// Adds the flags, each in both spellings (`--node-rank`, `--node_rank`) and with torchrun's environment
/// variable (PET_NODE_RANK).
void add_launch_options(CLI::App& command, LaunchOptions& options);

/// Solves what depends on other flags (endpoint, standalone, defaults). 64 for what does not fit together.
void check_launch_options(LaunchOptions& options);

/// Ranks of this node for `--nproc-per-node`: auto, gpu, cpu or a number.
int count_ranks(const std::string& wanted);

/// 64 where a text of streams by local rank, as streams_of() reads it, names one of `ranks` or above.
void check_stream_ranks(const std::string& wanted, int ranks, const char* flag);

/// Which of a rank's streams go to files: torchrun's "3", or "0:1,1:3" by local rank; 1 stdout, 2 stderr, 3
/// both. 64 for anything else, and for a rank that is given twice.
int streams_of(const std::string& wanted, int local_rank, const char* flag);

}  // namespace frameshard
