#include "launcher/launch/open_mpi.h"

#include <algorithm>
#include <regex>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "core/error.h"
#include "core/process.h"

namespace frameshard {
namespace {

constexpr double version_seconds = 10;

std::string parameter_flag(const OpenMpi& mpi) {
  return mpi.release.major == 4 ? "--mca" : "--prtemca";
}

std::string unquoted(const std::string& word) {
  const bool quoted = word.size() >= 2 && word.front() == '"' && word.back() == '"';
  return quoted ? word.substr(1, word.size() - 2) : word;
}

bool is_parameter_flag(const std::string& word) {
  return word == "-mca" || word == "--mca" || word == "-prtemca" || word == "--prtemca" ||
         word == "--pmixmca" || word == "-pmixmca";
}

// Only exports may stand before the daemon, and the daemon must be one by name.
void check_daemon_word(const std::string& text) {
  static const std::regex before(R"(\s*(export\s+)?[A-Za-z_][A-Za-z0-9_]*(=[^;`()|&<>\n]*)?\s*)");
  static const std::regex daemon(R"(\s*([^\s;`$()|&<>'"]*/)?(orted|prted)\s*)");
  size_t begin = 0;
  for (size_t end = text.find(';'); end != std::string::npos; begin = end + 1, end = text.find(';', begin)) {
    if (!std::regex_match(text.substr(begin, end - begin), before)) {
      fail(ExitCode::refused, "the master asks for \"{}\", which is no daemon of Open MPI", text);
    }
  }
  if (!std::regex_match(text.substr(begin), daemon)) {
    fail(ExitCode::refused, "the master asks for \"{}\", which is no daemon of Open MPI", text);
  }
}

// Parameters of daemons and of MPI that a job may bring along, by the beginnings of their names. None of them
// names a program or a file to be read, which a daemon would run or believe.
bool is_harmless(const std::string& key) {
  static constexpr const char* beginnings[] = {"PREFIXES",
                                               "btl",
                                               "coll",
                                               "ess",
                                               "grpcomm",
                                               "hwloc_",
                                               "if_",
                                               "mpi_",
                                               "mtl",
                                               "odls_base_sigkill_timeout",
                                               "oob",
                                               "op",
                                               "orte_base_help_aggregate",
                                               "orte_execute_quiet",
                                               "orte_hnp_uri",
                                               "orte_leave_session_attached",
                                               "orte_node_regex",
                                               "orte_parent_uri",
                                               "orte_tmpdir_base",
                                               "osc",
                                               "plm",
                                               "pmix",
                                               "pml",
                                               "prte_base_help_aggregate",
                                               "prte_hnp_uri",
                                               "prte_if_include",
                                               "prte_parent_uri",
                                               "prte_tmpdir_base",
                                               "ras",
                                               "rmaps_",
                                               "rml",
                                               "routed",
                                               "topo",
                                               "ucx_"};
  for (const char* part : {"agent", "path", "file", "exec", "program"}) {
    if (key.find(part) != std::string::npos && key != "orte_execute_quiet") return false;
  }
  return std::any_of(std::begin(beginnings), std::end(beginnings),
                     [&](auto* each) { return key.starts_with(each); });
}

bool is_our_agent(const std::string& key) {
  return key == "plm_rsh_agent" || key == "plm_ssh_agent" || key == "plm_rsh_no_tree_spawn" ||
         key == "plm_ssh_no_tree_spawn";
}

void check_master(const std::string& key, const std::string& value, const std::string& master_address) {
  if (!key.ends_with("hnp_uri") && !key.ends_with("parent_uri")) return;
  // "1760165888.0;tcp://10.0.0.1,172.17.0.1:40433;tcp6://…": the address stands between / , : or the end.
  const std::regex address("[/,]" + std::regex_replace(master_address, std::regex("\\."), "\\.") + "[,:]");
  if (!std::regex_search(value, address)) {
    fail(ExitCode::refused, "the daemon is to report to \"{}\", and the master of this job is {}", value,
         master_address);
  }
}

}  // namespace

OpenMpi find_open_mpi() {
  const auto mpirun = find_on_path("mpirun");
  if (!mpirun) fail(ExitCode::missing_file, "mpirun is not on PATH; install Open MPI (Debian: openmpi-bin)");
  const std::string text = output_of({mpirun->string(), "--version"}, version_seconds).text;
  const auto release = parse_mpi_release(text);
  if (!release || release->family != "Open MPI" || (release->major != 4 && release->major != 5)) {
    fail(ExitCode::unavailable, "{} is not Open MPI 4 or 5 (it says \"{}\"); put Open MPI first on PATH",
         mpirun->string(), text.substr(0, text.find('\n')));
  }
  OpenMpi mpi{.mpirun = mpirun->string(), .daemon = {}, .release = *release};
  const auto daemon = mpirun->parent_path() / (release->major == 4 ? "orted" : "prted");
  if (access(daemon.c_str(), X_OK) == 0) mpi.daemon = daemon.string();
  return mpi;
}

std::vector<std::string> mpirun_command(const OpenMpi& mpi, const MpiJob& job) {
  const bool four = mpi.release.major == 4;
  const std::string flag = parameter_flag(mpi), plm = four ? "rsh" : "ssh";
  std::vector<std::string> hosts;
  int ranks = 0;
  for (const MpiNode& node : job.nodes) {
    hosts.push_back(fmt::format("{}:{}", node.address, node.ranks));
    ranks += node.ranks;
  }
  std::vector<std::string> command{mpi.mpirun, "-n", std::to_string(ranks), "--host",
                                   fmt::format("{}", fmt::join(hosts, ","))};
  auto set = [&](const std::string& key, const std::string& value, bool of_mpi = false) {
    command.insert(command.end(), {of_mpi ? "--mca" : flag, key, value});
  };
  // Inside a Slurm job mpirun would start srun and take the job's nodes instead.
  set("plm", plm);
  set("ras", "^slurm");
  set("plm_" + plm + "_agent", job.agent);
  set("plm_" + plm + "_no_tree_spawn", "1");
  // A daemon in the background could not be watched.
  if (four) {
    set("orte_leave_session_attached", "1");
  } else {
    command.push_back("--leave-session-attached");
  }
  set(four ? "orte_tmpdir_base" : "prte_tmpdir_base", job.scratch);
  set("btl_vader_backing_directory", job.shared_memory, true);
  if (!job.network.empty()) {
    set(four ? "oob_tcp_if_include" : "prte_if_include", job.network);
    set("btl_tcp_if_include", job.network, true);
  }
  // A rank a core is usual here, and Open MPI counts physical cores; threads are placed by the ranks
  // themselves.
  command.insert(command.end(), {"--oversubscribe", "--bind-to", "none"});
  if (four) command.push_back("--quiet");
  if (geteuid() == 0) command.push_back("--allow-run-as-root");
  command.insert(command.end(), job.program.begin(), job.program.end());
  return command;
}

std::vector<std::string> daemon_command(const OpenMpi& mpi, const std::vector<std::string>& words,
                                        const std::string& master_address) {
  if (words.empty()) fail(ExitCode::refused, "the master asks for nothing");
  if (mpi.daemon.empty()) {
    fail(ExitCode::missing_file, "{} is not beside {}; install all of Open MPI",
         mpi.release.major == 4 ? "orted" : "prted", mpi.mpirun);
  }
  check_daemon_word(words[0]);
  std::vector<std::string> command{mpi.daemon};
  bool has_master = false;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--leave-session-attached" || word == "--allow-run-as-root") {
      command.push_back(word);
    } else if (is_parameter_flag(word) && i + 2 < words.size()) {
      const std::string& key = words[i + 1];
      const std::string value = unquoted(words[i + 2]);
      i += 2;
      if (is_our_agent(key)) continue;
      if (!is_harmless(key)) {
        fail(ExitCode::refused,
             "the master sets the parameter {}, which is not among those that are allowed; unset OMPI_MCA_{} "
             "on node 0",
             key, key);
      }
      check_master(key, value, master_address);
      has_master |= key.ends_with("hnp_uri");
      command.insert(command.end(), {word, key, value});
    } else {
      fail(ExitCode::refused,
           "the master gives its daemon \"{}\", which is not among the words that are allowed", word);
    }
  }
  if (!has_master) fail(ExitCode::refused, "the master does not say to whom its daemon is to report");
  return command;
}

}  // namespace frameshard
