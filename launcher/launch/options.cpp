#include "launcher/launch/options.h"

#include <charconv>
#include <optional>
#include <set>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "core/cuda_module.h"
#include "core/error.h"
#include "core/host.h"
#include "core/text.h"
#include "launcher/flags.h"
#include "launcher/ranks.h"

namespace frameshard {
namespace {

constexpr double least_timeout = 0.1, most_seconds = 1e6;

template <class Number>
bool read_number(const std::string& text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size();
}

int port_number(const std::string& text, const char* flag) {
  int port = -1;
  if (!read_number(text, port) || port < 0 || port > 65535) {
    fail(ExitCode::usage, "{}: a port is a number from 0 to 65535, got \"{}\"", flag, text);
  }
  return port;
}

// "2", or "2:2" as torchrun writes a range.
int node_count(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string least = text.substr(0, colon);
  const std::string most = colon == std::string::npos ? least : text.substr(colon + 1);
  int low = 0, high = 0;
  if (!read_number(least, low) || !read_number(most, high) || low < 1 || high < low || high > 65536) {
    fail(ExitCode::usage, "--nnodes must be a number of nodes from 1 to 65536, got \"{}\"", text);
  }
  if (low != high) {
    fail(ExitCode::usage, "--nnodes {}: a job here has a fixed number of nodes; give one number", text);
  }
  return low;
}

// "timeout=300,join_timeout=60": torchrun's --rdzv-conf. The two words for the wait are the ones that matter
// here.
std::optional<double> timeout_in(const std::string& conf) {
  std::optional<double> timeout;
  for (const std::string& pair : CLI::detail::split(conf, ',')) {
    if (pair.empty()) continue;
    const size_t equal = pair.find('=');
    const std::string key = pair.substr(0, equal);
    double seconds = 0;
    const bool number = equal != std::string::npos && read_number(pair.substr(equal + 1), seconds) &&
                        seconds >= least_timeout && seconds <= most_seconds;
    if (key == "timeout" || key == "join_timeout") {
      if (!number) fail(ExitCode::usage, "--rdzv-conf {}: seconds above 0 are wanted", pair);
      timeout = seconds;
    } else if (key != "is_host" && key != "last_call_timeout" && key != "read_timeout") {
      fail(ExitCode::usage, "--rdzv-conf knows timeout and join_timeout, got \"{}\"", pair);
    }
  }
  return timeout;
}

[[noreturn]] void refuse_both(const std::string& one, const std::string& other) {
  fail(ExitCode::usage, "{} and {} contradict each other; give one of them", one, other);
}

void take_endpoint(LaunchOptions& options) {
  const std::string& endpoint = options.rdzv_endpoint;
  if (endpoint.empty()) return;
  const size_t colon = endpoint.rfind(':');
  const std::string address = endpoint.substr(0, colon);
  if (options.master_addr.empty()) options.master_addr = address;
  if (options.master_addr != address) {
    refuse_both("--rdzv-endpoint " + endpoint, "--master-addr " + options.master_addr);
  }
  if (colon == std::string::npos) return;
  const int port = port_number(endpoint.substr(colon + 1), "--rdzv-endpoint");
  if (options.master_port < 0) options.master_port = port;
  if (options.master_port != port) {
    refuse_both("--rdzv-endpoint " + endpoint, fmt::format("--master-port {}", options.master_port));
  }
}

void take_timeout(LaunchOptions& options) {
  const auto timeout = timeout_in(options.rdzv_conf);
  if (timeout && options.rdzv_timeout >= 0 && options.rdzv_timeout != *timeout) {
    refuse_both("--rdzv-conf " + options.rdzv_conf, fmt::format("--rdzv-timeout {:g}", options.rdzv_timeout));
  }
  if (options.rdzv_timeout < 0) options.rdzv_timeout = timeout.value_or(60);
}

// It names a directory below --log-dir.
void check_id(const std::string& id) {
  const bool plain = std::all_of(id.begin(), id.end(), [](unsigned char letter) {
    return std::isalnum(letter) || letter == '.' || letter == '_' || letter == '-';
  });
  if (plain && !id.empty() && id != "." && id != "..") return;
  fail(ExitCode::usage, "--rdzv-id {}: a name of letters, digits, \".\", \"_\" and \"-\" is wanted",
       quote_for_message(id));
}

void check_backend(const LaunchOptions& options) {
  if (options.rdzv_backend == "static" || options.rdzv_backend == "c10d") return;
  fail(ExitCode::usage, "--rdzv-backend {}: the rendezvous here is the launcher of node 0 (static)",
       options.rdzv_backend);
}

void check_several_nodes(const LaunchOptions& options) {
  if (options.standalone)
    fail(ExitCode::usage, "--standalone is one node, but --nnodes is {}", options.nodes);
  if (options.master_addr.empty()) {
    fail(ExitCode::usage, "--nnodes {} needs --master-addr, the address of node 0 (and --master-port)",
         options.nodes);
  }
  if (options.node_rank < 0) {
    fail(ExitCode::usage,
         "--nnodes {} needs --node-rank: 0 on the node that --master-addr names, then 1 to {}", options.nodes,
         options.nodes - 1);
  }
  if (options.node_rank > 0 && options.master_port == 0) {
    fail(ExitCode::usage, "--master-port 0 is for node 0, which then prints its port; give that port here");
  }
}

}  // namespace

void add_launch_options(CLI::App& command, LaunchOptions& options) {
  auto add = [&](const std::string& name, auto& value, const std::string& help) {
    std::string underscores = name, variable = "PET_" + name;
    std::replace(underscores.begin(), underscores.end(), '-', '_');
    for (char& letter : variable) letter = letter == '-' ? '_' : char(std::toupper(letter));
    const std::string spellings = underscores == name ? "--" + name : "--" + name + ",--" + underscores;
    return command.add_option(spellings, value, help)->envname(variable);
  };
  add("nproc-per-node", options.nproc_per_node,
      "ranks of this node: a number, auto (GPUs, else 2 to 8 cores), gpu, cpu")
      ->capture_default_str();
  add("nnodes", options.nnodes, "nodes of the job; this command is started on each")->capture_default_str();
  add("node-rank", options.node_rank, "this node's number, 0 to nnodes-1")->check(CLI::Range(0, 65535));
  add("master-addr", options.master_addr, "address of node 0, which listens on it alone");
  add("master-port", options.master_port, "port of node 0; 0: any that is free, which it prints (29500)")
      ->check(CLI::Range(0, 65535));
  add("local-addr", options.local_addr,
      "this node's address for MPI; the one that reaches the master if left out");
  add("rdzv-timeout", options.rdzv_timeout,
      "seconds to wait for all nodes, and then for their ranks to meet (60)")
      ->check(real_range(least_timeout, most_seconds));
  add("rdzv-endpoint", options.rdzv_endpoint, "ADDRESS:PORT, the same as --master-addr and --master-port");
  add("rdzv-backend", options.rdzv_backend,
      "static or c10d, for torchrun's command lines; both mean node 0's launcher");
  add("rdzv-id", options.rdzv_id, "name of the job, a folder in --log-dir")->capture_default_str();
  add("rdzv-conf", options.rdzv_conf, "timeout=SECONDS, as --rdzv-timeout");
  command.add_flag("--standalone", options.standalone, "one node (the default)");
  add("token-file", options.token_file,
      "secret that all nodes share, mode 0600 (FRAMESHARD_TOKEN, else ~/.config/frameshard/token)");
  add("max-restarts", options.max_restarts,
      "start the ranks again after one of them was lost, at most so often")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  add("stop-grace", options.stop_grace, "seconds that ranks have to stop in order after SIGTERM or ^C")
      ->check(real_range(0, most_seconds))
      ->capture_default_str();
  add("log-dir", options.log_dir, "directory of the ranks' output files, with --redirects or --tee (logs)");
  command
      .add_option("-r,--redirects", options.redirects,
                  "streams that go to files: 1 stdout, 2 stderr, 3 both, or 0:1,1:3 by local rank")
      ->envname("PET_REDIRECTS");
  command
      .add_option("-t,--tee", options.tee, "streams that go to files and to the terminal, in the same form")
      ->envname("PET_TEE");
}

void check_launch_options(LaunchOptions& options) {
  options.nodes = node_count(options.nnodes);
  check_backend(options);
  take_endpoint(options);
  take_timeout(options);
  check_id(options.rdzv_id);
  if (options.nodes > 1) check_several_nodes(options);
  if (options.nodes == 1 && options.node_rank > 0) {
    fail(ExitCode::usage, "--node-rank {} of 1 node; give --nnodes", options.node_rank);
  }
  if (options.node_rank >= options.nodes) {
    fail(ExitCode::usage, "--node-rank {} of {} nodes; it goes from 0 to {}", options.node_rank,
         options.nodes, options.nodes - 1);
  }
  if (options.master_port < 0) options.master_port = 29500;
  options.node_rank = std::max(options.node_rank, 0);
  const bool to_files =
      (streams_of(options.redirects, 0, "--redirects") | streams_of(options.tee, 0, "--tee")) != 0 ||
      options.redirects.find(':') != std::string::npos || options.tee.find(':') != std::string::npos;
  if (to_files && options.log_dir.empty()) options.log_dir = "logs";
}

int count_ranks(const std::string& wanted) {
  if (wanted == "auto") return local_device_count();
  if (wanted == "cpu") return allowed_cores();
  if (wanted == "gpu") {
    if (!cuda()) fail(ExitCode::config, "--nproc-per-node gpu, but {}", why_no_cuda());
    return cuda()->device_count();
  }
  int count = 0;
  if (!read_number(wanted, count) || count < 1 || count > 65536) {
    fail(ExitCode::usage,
         "--nproc-per-node must be auto, gpu, cpu or a number of ranks from 1 to 65536, got \"{}\"", wanted);
  }
  return count;
}

void check_stream_ranks(const std::string& wanted, int ranks, const char* flag) {
  for (const std::string& part : CLI::detail::split(wanted, ',')) {
    const size_t colon = part.find(':');
    int rank = 0;
    if (colon == std::string::npos || !read_number(part.substr(0, colon), rank) || rank < ranks) continue;
    fail(ExitCode::usage, "{} {}: there is no local rank {}; the {} of this node go{} from 0 to {}", flag,
         wanted, rank, ranks, ranks == 1 ? "es" : "", ranks - 1);
  }
}

int streams_of(const std::string& wanted, int local_rank, const char* flag) {
  int streams = 0;
  std::set<int> named;
  for (const std::string& part : CLI::detail::split(wanted, ',')) {
    const size_t colon = part.find(':');
    int rank = local_rank, value = -1;
    const bool read = (colon == std::string::npos || read_number(part.substr(0, colon), rank)) &&
                      read_number(colon == std::string::npos ? part : part.substr(colon + 1), value);
    if (!read || value < 0 || value > 3 || rank < 0) {
      fail(ExitCode::usage, "{}: 0 none, 1 stdout, 2 stderr, 3 both, or 0:1,1:3 by local rank; got \"{}\"",
           flag, wanted);
    }
    if (!named.insert(rank).second) {
      fail(ExitCode::usage, "{} {}: local rank {} is given twice", flag, wanted, rank);
    }
    if (rank == local_rank) streams = value;
  }
  return streams;
}

}  // namespace frameshard
