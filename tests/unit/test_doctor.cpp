// The rules of `frameshard doctor`, with made-up machines.
#include <algorithm>

#include "launcher/doctor/finding.h"
#include "launcher/doctor/gpu_check.h"
#include "launcher/doctor/limits_check.h"
#include "launcher/doctor/mpi_match.h"
#include "launcher/doctor/plan_check.h"
#include "launcher/doctor/versions_check.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;

namespace {

constexpr int64_t gib = int64_t{1} << 30;

// The only finding that says something is to change, as a line; empty when none, or several.
std::string the_change(const Findings& findings) {
  std::string line;
  for (const Finding& finding : findings) {
    if (finding.verdict != Verdict::change) continue;
    if (!line.empty()) return "";
    line = line_of(finding);
  }
  return line;
}

bool none_to_change(const Findings& findings) {
  return !findings.empty() && std::none_of(findings.begin(), findings.end(),
                                           [](const Finding& f) { return f.verdict == Verdict::change; });
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

LimitFacts good_limits() {
  LimitFacts facts;
  facts.open_files = 4096;
  facts.shared_memory = {.total_bytes = 8 * gib, .free_bytes = 8 * gib};
  facts.memory = facts.free_memory = 64 * gib;
  facts.clock_source = "tsc";
  facts.allowed_cores = 4;
  return facts;
}

GpuFacts card(double now, int lanes) {
  GpuFacts gpu;
  gpu.name = "NVIDIA H200", gpu.memory = 140 * gib;
  gpu.pci = {.address = "0000:0f:00.0", .now = {now, lanes}, .most = {32, 16}, .numa_node = 1};
  return gpu;
}

CudaFacts good_gpus() {
  CudaFacts facts;
  facts.driver = facts.runtime = 13000;
  facts.nccl_loaded = facts.nccl_built_with = 22809;
  facts.gpus = {card(32, 16), card(32, 16)};
  facts.peer = {{true, true}, {true, true}};
  return facts;
}

MpiFacts good_mpi() {
  MpiFacts facts;
  facts.library = "Open MPI v4.1.4";
  facts.program = "/usr/bin/mpirun";
  facts.program_text = "mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n";
  return facts;
}

}  // namespace

TEST_CASE("releases of MPI") {
  const auto release = [](const std::string& text) {
    const auto parsed = parse_mpi_release(text);
    return parsed ? parsed->text() : "none";
  };
  CHECK(release("mpirun (Open MPI) 4.1.4\n\nReport bugs to ...") == "Open MPI 4.1.4");
  CHECK(release("mpirun (Open MPI) 5.0.3\n\nReport bugs to ...") == "Open MPI 5.0.3");
  CHECK(release("mpirun (Open MPI) 5.1.0rc2\n") == "Open MPI 5.1.0");
  CHECK(release("mpiexec (OpenRTE) 2.1.1\n") == "Open MPI 2.1.1");
  CHECK(release("prterun (PRRTE) 3.0.5\n") == "PRRTE 3.0.5");
  CHECK(release("Open MPI v4.1.4") == "Open MPI 4.1.4");
  CHECK(release("HYDRA build details:\n    Version:                                 4.0.2\n") ==
        "MPICH 4.0.2");
  CHECK(release("Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307") == "Intel MPI 2021.9.0");
  for (const char* bad : {"", "mpirun", "mpirun (Open MPI)", "mpirun (Open MPI) four", "mpirun (Open MPI) 4",
                          "bash: mpirun: command not found"}) {
    CHECK(release(bad) == "none");
  }
}

TEST_CASE("mpirun and the library") {
  MpiFacts facts = good_mpi();
  CHECK(none_to_change(check_mpi_programs(facts)));
  facts.program_text = "mpirun (Open MPI) 4.1.6\n";
  CHECK(none_to_change(check_mpi_programs(facts)));  // the same series
  facts.program_text = "mpirun (Open MPI) 5.0.3\n";
  CHECK(the_change(check_mpi_programs(facts)) ==
        "CHANGE MPI: /usr/bin/mpirun is of Open MPI 5.0.3, this program is linked with Open MPI v4.1.4; put "
        "the mpirun of Open MPI v4.1.4 first on PATH, or build Frameshard with the other");
  facts.program_text = "HYDRA build details:\n Version: 4.1.4\n";
  CHECK(has(the_change(check_mpi_programs(facts)), "is of MPICH 4.1.4"));
  facts.program_text = "prterun (PRRTE) 3.0.5\n";
  CHECK(has(the_change(check_mpi_programs(facts)), "is of PRRTE 3.0.5"));
  facts.library = "Open MPI v5.0.3";
  CHECK(none_to_change(check_mpi_programs(facts)));
  facts.started_by_orte = true;
  CHECK(has(the_change(check_mpi_programs(facts)), "an mpirun of Open MPI 4 or older started this process"));
}

TEST_CASE("an mpirun that says nothing, or is none") {
  MpiFacts facts = good_mpi();
  facts.program_text = "";
  CHECK(none_to_change(check_mpi_programs(facts)));
  facts.program_ended = false;
  CHECK(has(the_change(check_mpi_programs(facts)), "--version did not end in 10 s"));
  facts.program = "";
  CHECK(has(line_of(check_mpi_programs(facts).front()), "no mpirun on PATH"));
  facts.library = "Some MPI";
  CHECK(has(line_of(check_mpi_programs(facts).front()), "unknown MPI: Some MPI"));
}

TEST_CASE("the singleton trap") {
  MpiFacts facts = good_mpi();
  facts.environment = {.world_sizes = {{"OMPI_COMM_WORLD_SIZE", 4}}, .launched = true};
  facts.world = 4;
  CHECK(line_of(check_launcher(facts).front()) == "ok     launcher: 4 ranks, as OMPI_COMM_WORLD_SIZE says");
  facts.world = 1;
  CHECK(has(the_change(check_launcher(facts)), "launcher says 4, MPI says 1 (OMPI_COMM_WORLD_SIZE=4)"));
  facts.environment = {};
  CHECK(line_of(check_launcher(facts).front()) == "ok     launcher: none, one process");
}

TEST_CASE("limits of a rank") {
  CHECK(none_to_change(check_rank_limits(good_limits(), 4, 4)));
  LimitFacts facts = good_limits();
  facts.open_files = 1023;
  CHECK(has(the_change(check_rank_limits(facts, 4, 4)),
            "1023 at most, 1024 are needed for 4 ranks; ulimit -n 1024"));
  facts = good_limits();
  CHECK(has(the_change(check_rank_limits(facts, 512, 4)), "4096 at most, 8192 are needed for 512 ranks"));
  facts.open_files = -1;
  CHECK(none_to_change(check_rank_limits(facts, 512, 4)));
  CHECK(has(the_change(check_rank_limits(facts, 5, 5)), "5 ranks on 4 cores"));
  facts.locked_memory = 8 << 20;
  CHECK(none_to_change(check_rank_limits(facts, 4, 4)));
  facts.rdma = true;
  CHECK(has(the_change(check_rank_limits(facts, 4, 4)), "ulimit -l unlimited"));
}

TEST_CASE("threads of a rank") {
  LimitFacts facts = good_limits();
  facts.omp_threads = "2";
  CHECK(none_to_change(check_rank_limits(facts, 2, 2)));
  CHECK(has(the_change(check_rank_limits(facts, 4, 4)), "OMP_NUM_THREADS is 2, and 4 ranks share 4 cores"));
  for (const char* bad : {"0", "-1", "two", "2x", "99999999999"}) {
    facts.omp_threads = bad;
    CHECK(has(the_change(check_rank_limits(facts, 2, 2)), fmt::format("\"{}\", no number of threads", bad)));
  }
}

TEST_CASE("limits of a host") {
  CHECK(none_to_change(check_host_limits(good_limits(), 4)));
  LimitFacts facts = good_limits();
  facts.shared_memory = {.total_bytes = 64 << 20, .free_bytes = 64 << 20};
  CHECK(none_to_change(check_host_limits(facts, 1)));
  CHECK(has(the_change(check_host_limits(facts, 2)), "docker run --shm-size=1024m"));
  facts.shared_memory = {.total_bytes = gib, .free_bytes = 1 << 20};
  CHECK(has(the_change(check_host_limits(facts, 2)), "remove what dead jobs have left there"));
  facts.shared_memory = {};
  CHECK(has(the_change(check_host_limits(facts, 2)), "is missing"));
  facts = good_limits();
  facts.clock_source = "hpet";
  CHECK(none_to_change(check_host_limits(facts, 1)));
  CHECK(has(line_of(check_host_limits(facts, 1).back()), "note   clock: hpet is slow"));
}

TEST_CASE("GPUs, driver and NCCL") {
  CHECK(none_to_change(check_gpus(good_gpus())));
  CudaFacts facts = good_gpus();
  facts.driver = 12040;
  CHECK(has(the_change(check_gpus(facts)), "runs CUDA up to 12.4, this build needs 13.0; update the driver"));
  facts = good_gpus();
  facts.nccl_loaded = 22703;
  CHECK(has(the_change(check_gpus(facts)), "2.27.3 is loaded, 2.28.9 was compiled with"));
  facts.nccl_loaded = 22900;
  CHECK(none_to_change(check_gpus(facts)));
  facts = good_gpus();
  facts.peer = {{true, false}, {true, true}};
  CHECK(none_to_change(check_gpus(facts)));
  CHECK(line_of(check_gpus(facts).back()) ==
        "note   GPU peers: 1 of 2 pairs exchange through the host's memory: -0 1-");
}

TEST_CASE("PCI Express links of GPUs") {
  CudaFacts facts = good_gpus();
  facts.gpus = {card(32, 8)};
  CHECK(has(the_change(check_gpus(facts)), "PCIe gen 5 x8, NUMA node 1, of gen 5 x16 at most"));
  facts.gpus = {card(2.5, 16)};
  CHECK(none_to_change(check_gpus(facts)));
  CHECK(has(line_of(check_gpus(facts)[2]), "note   GPU: 0: NVIDIA H200"));
  facts.gpus = {card(0, 0)};  // what a virtual machine shows
  CHECK(has(line_of(check_gpus(facts)[2]),
            "ok     GPU: 0: NVIDIA H200, 140.00 GiB, 0000:0f:00.0, PCIe unknown"));
}

TEST_CASE("no GPU that can be used") {
  CudaFacts facts;
  facts.why_none = "no NVIDIA driver";
  CHECK(line_of(check_gpus(facts).front()) == "note   GPU: no NVIDIA driver: ranks compute on the CPU");
  facts.cards = {"0000:0f:00.0"};
  CHECK(has(the_change(check_gpus(facts)),
            "1 NVIDIA card is on the PCI bus (0000:0f:00.0), but no NVIDIA driver"));
  facts.hidden = true;
  CHECK(none_to_change(check_gpus(facts)));
}

TEST_CASE("unlike GPUs are named") {
  CHECK(check_alike({}).empty());
  CHECK(none_to_change(check_alike({"H200", "H200"})));
  CHECK(has(the_change(check_alike({"H200", "A100", "H200"})),
            "1 x A100, 2 x H200: equal shares make the slowest set the pace"));
}

TEST_CASE("versions of ranks") {
  const std::map<std::string, std::string> mine{{"LibTorch", "2.9.0"}, {"MPI", "Open MPI v4.1.4"}};
  CHECK(line_of(check_versions({{0, "a", mine}, {1, "b", mine}}).front()) ==
        "ok     versions: LibTorch 2.9.0, MPI Open MPI v4.1.4");
  const std::map<std::string, std::string> other{{"LibTorch", "2.8.0"}, {"MPI", "Open MPI v4.1.4"}};
  const std::map<std::string, std::string> less{{"LibTorch", "2.9.0"}};
  CHECK(has(the_change(check_versions({{0, "a", mine}, {1, "b", other}, {2, "b", other}})),
            "LibTorch is 2.8.0 on ranks 1-2 (b), 2.9.0 on rank 0 (a)"));
  CHECK(has(the_change(check_versions({{0, "a", mine}, {1, "b", less}})), "none on rank 1 (b)"));
}

TEST_CASE("a plan's balance") {
  PlanFacts facts;
  facts.dp = 2, facts.cp = 4, facts.ulysses = 4, facts.videos = 4;
  facts.tokens = 1001, facts.largest_tokens = 251, facts.heads = 12, facts.largest_heads = 3;
  CHECK(none_to_change(check_balance(facts)));
  facts.heads = 7, facts.largest_heads = 2;
  CHECK(has(the_change(check_balance(facts)),
            "7 heads over 4 ranks: at most 2, 1.14 times the mean; set "
            "infer.attention.ulysses_size=1 and ring_size=4"));
  facts.heads = 12, facts.largest_heads = 3, facts.videos = 3;
  CHECK(has(the_change(check_balance(facts)), "3 videos on 2 replicas: 2 at most on one"));
  facts.videos = 1;
  CHECK(has(the_change(check_balance(facts)), "1 video on 2 replicas"));
  CHECK(check_balance(PlanFacts{}).empty());
}

TEST_CASE("a plan's memory") {
  PlanFacts facts;
  facts.needed_bytes = 10 * gib, facts.free_bytes = 10 * gib;
  CHECK(check_plan_memory(facts).verdict == Verdict::ok);
  facts.free_bytes = 9 * gib;
  facts.cp = 2;
  CHECK(line_of(check_plan_memory(facts)) ==
        "CHANGE plan's memory: 10.00 GiB a rank, 9.00 GiB free; a smaller video (request.width, height, "
        "num_frames), or fewer ranks a host");
  facts.fitting_cp = 3, facts.bfloat16_fits = true;
  CHECK(has(line_of(check_plan_memory(facts)),
            "infer.diffusion.cp_size=3 on more devices or hosts, or model.dtype=bfloat16, or"));
}

TEST_CASE("lists of ranks") {
  CHECK(ranks_text({}) == "");
  CHECK(ranks_text({3}) == "3");
  CHECK(ranks_text({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8");
}

TEST_CASE("equal lines are printed once") {
  const Finding tsc = ok("clock", "tsc", Scope::host), hpet = note("clock", "hpet", Scope::host);
  const Finding few = change("open files", "256", "ulimit -n 1024", Scope::rank);
  const Finding many = ok("open files", "1024", Scope::rank);
  const std::vector<Report> same{
      {tsc, 0, "a"}, {many, 0, "a"}, {tsc, 2, "b"}, {many, 1, "a"}, {many, 2, "b"}};
  CHECK(grouped_lines(same, 3) ==
        std::vector<std::string>{"ok     clock: tsc [all hosts]", "ok     open files: 1024 [all ranks]"});
  const std::vector<Report> differ{
      {tsc, 0, "a"}, {many, 0, "a"}, {hpet, 2, "b"}, {few, 1, "a"}, {few, 2, "b"}};
  CHECK(grouped_lines(differ, 3) ==
        std::vector<std::string>{"ok     clock: tsc [host a]", "note   clock: hpet [host b]",
                                 "ok     open files: 1024 [rank 0 on a]",
                                 "CHANGE open files: 256; ulimit -n 1024 [rank 1 on a; rank 2 on b]"});
  CHECK(grouped_lines({{many, 0, "a"}}, 1) == std::vector<std::string>{"ok     open files: 1024"});
  CHECK(grouped_lines({{many, 0, "a"}, {few, 1, "a"}}, 2).back() ==
        "CHANGE open files: 256; ulimit -n 1024 [rank 1]");
  const Tally tally = count_lines(grouped_lines(differ, 3));
  CHECK(tally_line(tally) == "doctor: 2 ok, 1 to change");
}

TEST_CASE("findings travel between ranks") {
  const Findings sent{ok("a", "b", Scope::job), change("c", "d; \"e\"\n", "f", Scope::rank)};
  CHECK((findings_from_json(Json::parse(to_json(sent).dump())) == sent));
  CHECK(caught([] { findings_from_json(Json::parse("[[1,2]]")); }).code == ExitCode::internal);
}
