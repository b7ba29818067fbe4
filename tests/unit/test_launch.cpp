// What `launch` makes of its flags, and of what mpirun asks of another node.
#include <CLI/CLI.hpp>

#include "launcher/launch/master.h"
#include "launcher/launch/open_mpi.h"
#include "launcher/launch/options.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;
using Words = std::vector<std::string>;

namespace {

LaunchOptions parsed(Words words) {
  CLI::App command;
  LaunchOptions options;
  add_launch_options(command, options);
  std::reverse(words.begin(), words.end());
  command.parse(words);
  check_launch_options(options);
  return options;
}

void refuses(const Words& words, const std::string& part) {
  const auto error = caught([&] { parsed(words); });
  INFO(error.message);
  CHECK(error.code == ExitCode::usage);
  CHECK(error.has(part));
}

OpenMpi open_mpi(int major) {
  return {.mpirun = "/opt/bin/mpirun", .daemon = "/opt/bin/daemon", .release = {"Open MPI", major, 0, 0}};
}

// What Open MPI 4.1.4 and 5.0.11 gave a start agent after the host, shortened.
const Words asked_by_4{" orted",
                       "-mca",
                       "ess",
                       "\"env\"",
                       "-mca",
                       "ess_base_vpid",
                       "1",
                       "-mca",
                       "orte_node_regex",
                       "\"h[1:1],[2:10].77.0.2@0(2)\"",
                       "-mca",
                       "orte_hnp_uri",
                       "\"1760165888.0;tcp://10.77.0.1:40433;tcp6://[fd00::2]:41375\"",
                       "--mca",
                       "plm_rsh_agent",
                       "\"/tmp/x/agent\"",
                       "--mca",
                       "plm_rsh_no_tree_spawn",
                       "\"1\"",
                       "-mca",
                       "orte_execute_quiet",
                       "\"1\""};
const Words asked_by_5{
    "PRTE_PREFIX=/v;export PRTE_PREFIX;LD_LIBRARY_PATH=/v/lib:$LD_LIBRARY_PATH;export "
    "LD_LIBRARY_PATH;/v/bin/prted",
    "--leave-session-attached",
    "--prtemca",
    "ess",
    "\"env\"",
    "--prtemca",
    "prte_hnp_uri",
    "\"prterun-vm-1@0.0;tcp://10.77.0.1:39185:64,24\"",
    "--prtemca",
    "plm_ssh_agent",
    "\"/x\""};

Words changed(Words words, size_t at, const std::string& word) {
  words[at] = word;
  return words;
}
Words longer(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace

TEST_CASE("launch knows torchrun's flags in both spellings") {
  const LaunchOptions dashes =
      parsed({"--nnodes", "2", "--node-rank=1", "--master-addr", "a", "--master-port", "7"});
  CHECK(dashes.nodes == 2);
  CHECK(dashes.node_rank == 1);
  CHECK(dashes.master_port == 7);
  const LaunchOptions scores =
      parsed({"--nnodes=2:2", "--node_rank", "0", "--master_addr=a", "--nproc_per_node=4"});
  CHECK(scores.nodes == 2);
  CHECK(scores.nproc_per_node == "4");
  CHECK(scores.master_port == 29500);
  CHECK(scores.rdzv_timeout == 60);
  const LaunchOptions endpoint = parsed({"--nnodes", "2", "--node-rank", "1", "--rdzv-endpoint", "h:81",
                                         "--rdzv-backend=c10d", "--rdzv-conf", "join_timeout=5"});
  CHECK(endpoint.master_addr == "h");
  CHECK(endpoint.master_port == 81);
  CHECK(endpoint.rdzv_timeout == 5);
  CHECK(parsed({"--standalone"}).nodes == 1);
  CHECK(parsed({"--rdzv-id", "job_7.a-b"}).rdzv_id == "job_7.a-b");
  CHECK(parsed({"--rdzv-endpoint", "h:81", "--master-port", "81", "--master-addr", "h"}).master_port == 81);
  CHECK(parsed({"--rdzv-conf", "timeout=5", "--rdzv-timeout", "5"}).rdzv_timeout == 5);
  CHECK(parsed({"-t", "3"}).log_dir == "logs");
}

TEST_CASE("launch refuses flags that do not fit together") {
  refuses({"--nnodes", "1:4"}, "fixed number of nodes");
  refuses({"--nnodes", "two"}, "--nnodes must be a number");
  refuses({"--nnodes", "2", "--node-rank", "0"}, "--master-addr");
  refuses({"--nnodes", "2", "--master-addr", "a"}, "--node-rank");
  refuses({"--nnodes", "2", "--master-addr", "a", "--node-rank", "2"}, "goes from 0 to 1");
  refuses({"--nnodes", "2", "--master-addr", "a", "--node-rank", "1", "--master-port", "0"},
          "port 0 is for node 0");
  refuses({"--nnodes", "2", "--master-addr", "a", "--node-rank", "0", "--standalone"},
          "--standalone is one node");
  refuses({"--node-rank", "1"}, "give --nnodes");
  refuses({"--rdzv-backend", "etcd"}, "--rdzv-backend etcd");
  refuses({"--rdzv-endpoint", "h:many"}, "a port is a number");
  refuses({"--rdzv-conf", "timeout=soon"}, "seconds above 0");
  refuses({"--rdzv-conf", "tmeout=5"}, "knows timeout");
  refuses({"--rdzv-conf", "timeout=inf"}, "seconds above 0");
  refuses({"--rdzv-conf", "timeout=5", "--rdzv-timeout", "6"},
          "--rdzv-conf timeout=5 and --rdzv-timeout 6 contradict each other");
  refuses({"--rdzv-endpoint", "h:81", "--master-port", "82"},
          "--rdzv-endpoint h:81 and --master-port 82 contradict each other");
  refuses({"--rdzv-endpoint", "h:81", "--master-addr", "g"},
          "--rdzv-endpoint h:81 and --master-addr g contradict each other");
  for (const char* id : {"", ".", "..", "../../x", "/tmp/x", "a b", "a\nb"}) {
    refuses({"--rdzv-id", id}, "a name of letters, digits");
  }
  refuses({"--tee", "0:1,0:2"}, "--tee 0:1,0:2: local rank 0 is given twice");
  refuses({"--tee", "4"}, "0 none, 1 stdout");
  refuses({"--redirects", "0:1,x:2"}, "0 none, 1 stdout");
}

TEST_CASE("launch refuses times that are no numbers") {
  for (const char* flag : {"--rdzv-timeout", "--stop-grace"}) {
    for (const char* value : {"nan", "inf", "-1", "soon"}) {
      INFO(flag << " " << value);
      CHECK_THROWS_AS(parsed({flag, value}), CLI::ValidationError);
    }
  }
}

TEST_CASE("streams of ranks that a node does not have") {
  check_stream_ranks("3", 1, "--tee");
  check_stream_ranks("0:1,1:3", 2, "--tee");
  const auto error = caught([] { check_stream_ranks("0:1,2:3", 2, "--tee"); });
  CHECK(error.code == ExitCode::usage);
  CHECK(error.has("--tee 0:1,2:3: there is no local rank 2; the 2 of this node go from 0 to 1"));
}

TEST_CASE("streams by local rank") {
  CHECK(streams_of("0", 0, "--tee") == 0);
  CHECK(streams_of("3", 5, "--tee") == 3);
  CHECK(streams_of("0:1,1:3", 0, "--tee") == 1);
  CHECK(streams_of("0:1,1:3", 1, "--tee") == 3);
  CHECK(streams_of("0:1,1:3", 2, "--tee") == 0);
}

TEST_CASE("mpirun's command in both versions") {
  const MpiJob job{.nodes = {{"10.0.0.1", 1}, {"10.0.0.2", 3}},
                   .network = "10.0.0.0/24",
                   .agent = "/s/agent",
                   .scratch = "/s",
                   .shared_memory = "/m",
                   .program = {"frameshard", "run", "a.yaml"}};
  for (const int major : {4, 5}) {
    const std::string command = fmt::format("{}", fmt::join(mpirun_command(open_mpi(major), job), " "));
    INFO(command);
    auto has = [&](const std::string& part) { return command.find(part) != std::string::npos; };
    CHECK(command.starts_with("/opt/bin/mpirun -n 4 --host 10.0.0.1:1,10.0.0.2:3"));
    CHECK(command.ends_with("frameshard run a.yaml"));
    CHECK(has(major == 4 ? "--mca plm_rsh_agent /s/agent" : "--prtemca plm_ssh_agent /s/agent"));
    CHECK(has(major == 4 ? "--mca oob_tcp_if_include 10.0.0.0/24" : "--prtemca prte_if_include 10.0.0.0/24"));
    CHECK(has("--mca btl_tcp_if_include 10.0.0.0/24"));
    CHECK(has("ras ^slurm"));
  }
}

TEST_CASE("a node starts its own daemon for the master that it knows") {
  const Words four = daemon_command(open_mpi(4), asked_by_4, "10.77.0.1");
  CHECK(four[0] == "/opt/bin/daemon");
  CHECK(four[3] == "env");
  CHECK(std::find(four.begin(), four.end(), "plm_rsh_agent") == four.end());
  CHECK(std::find(four.begin(), four.end(), "orte_execute_quiet") != four.end());
  const Words five = daemon_command(open_mpi(5), asked_by_5, "10.77.0.1");
  CHECK(five == Words{"/opt/bin/daemon", "--leave-session-attached", "--prtemca", "ess", "env", "--prtemca",
                      "prte_hnp_uri", "prterun-vm-1@0.0;tcp://10.77.0.1:39185:64,24"});
}

TEST_CASE("a node starts nothing else") {
  auto refused = [](const Words& words, const std::string& part, const std::string& master = "10.77.0.1") {
    const auto error = caught([&] { daemon_command(open_mpi(4), words, master); });
    INFO(error.message);
    CHECK(error.code == ExitCode::refused);
    CHECK(error.has(part));
  };
  refused({}, "asks for nothing");
  for (const char* word :
       {"sh", "orted; rm -r /", "$(reboot)orted", "rm -r /;orted", "`id`;orted", "X=$(id);orted", "orted -x",
        "/bin/sh -c orted", "a|orted", "export A\nid;orted"}) {
    refused(changed(asked_by_4, 0, word), "no daemon of Open MPI");
  }
  refused(longer(asked_by_4, {"--daemonize"}), "\"--daemonize\"");
  refused(longer(asked_by_4, {"-mca", "orte_launch_agent", "/bin/sh"}), "not among those that are allowed");
  refused(longer(asked_by_4, {"-mca", "mca_base_component_path", "/tmp"}),
          "not among those that are allowed");
  refused(longer(asked_by_4, {"-mca", "mca_base_param_files", "/tmp/x"}), "not among those that are allowed");
  refused(longer(asked_by_4, {"-mca", "orte_output_filename", "/tmp/x"}), "not among those that are allowed");
  refused(longer(asked_by_4, {"-mca", "ess"}), "\"-mca\"");
  refused(asked_by_4, "the master of this job is 10.77.0.10", "10.77.0.10");
  refused(asked_by_4, "the master of this job is 0.77.0.1", "0.77.0.1");
  refused({" orted", "-mca", "ess", "env"}, "to whom its daemon is to report");
}

TEST_CASE("a restart is for losses, not for mistakes") {
  for (const int code : {1, 69, 71, 124, 137, 139, 143}) CHECK(worth_a_restart(code));
  for (const int code : {0, 64, 65, 66, 74, 75, 76, 77, 78, 80}) CHECK_FALSE(worth_a_restart(code));
}
