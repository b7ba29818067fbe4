#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include <unistd.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/io/atomic_file.h"
#include "core/io/file_kind.h"
#include "core/log.h"
#include "core/phase.h"
#include "launcher/bench/compare.h"
#include "launcher/bench/machine.h"
#include "launcher/bench/plot.h"
#include "launcher/bench/run.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/output.h"
#include "launcher/doctor/versions_check.h"
#include "launcher/failure.h"
#include "launcher/precision.h"
#include "launcher/settle.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/self.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

// Found before anything is measured.
void check_outputs(const BenchOptions& options) {
  if (!options.plot.empty()) find_gnuplot();
  for (const std::string& file : {options.json, options.plot}) {
    if (file.empty()) continue;
    check_replaceable(file, std::filesystem::symlink_status(file));
    AtomicFile probe(file);
  }
}

// This command line once more, as ranks.
[[noreturn]] void start_ranks(int ranks) {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  words.erase(words.begin());
  words.insert(words.begin(), {program, "launch", "--nproc-per-node", std::to_string(ranks)});
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execv(program.c_str(), arguments.data());
  fail(ExitCode::unavailable, "{} cannot be started again: {}", program, std::strerror(errno));
}

void publish(const BenchReport& report, const BenchOptions& options) {
  set_phase("write");
  print_output(report_text(report));
  if (!options.json.empty()) write_file_atomically(options.json, report_json(report).dump(2) + "\n");
  if (!options.plot.empty()) draw_plot(report, options.plot);
}

// A rank that fails while others may be waiting for it ends them all.
[[noreturn]] void report_and_abort(Communicator& world, const at::Device& device) {
  const Failure failure = current_failure();
  // Ranks that fail at the same moment: the first of them ends the others before they say so too.
  std::this_thread::sleep_for(std::chrono::milliseconds(200) * std::min(world.rank(), 50));
  print_failure(failure_line(failure, world.rank(), world.size(), device.str(), current_phase()));
  abort_all_ranks(int(failure.code));
}

int bench_as_rank(const BenchOptions& options, MpiSession& mpi) {
  Communicator& world = mpi.world();
  RankPlace place{.local_rank = mpi.local_rank(), .local_size = mpi.local_size(), .under_mpi = true};
  const at::Device device = device_for_rank("auto", place.local_rank);
  BenchSetup setup;
  PlanMachine machine;
  all_or_none(world, [&] {
    check_world_size(world.size());
    check_rank(mpi.launcher_rank(), mpi.local_rank());
  });
  all_or_none(world, [&] { check_same_versions(own_versions(), world); });
  all_or_none(world, [&] { check_same_text(world, options_text(options), "the flags of bench"); });
  all_or_none(world, [&] { setup = open_bench(options, world.size()); });
  all_or_none(world, [&] {
    if (world.rank() == 0) check_outputs(options);
  });
  machine = describe_bench_machine(setup, place, device, world);
  divide_cores(place, world);
  all_or_none(world, [&] {
    use_device(device);
    check_memory(setup, machine, place, device);
  });
  if (world.rank() == 0) {
    warn_of_sharing(machine, place);
    warn_of_slow_dtype(setup.dtype, device);
  }
  stay_on_own_cpus(place, setup.threads);
  try {
    const BenchReport report = measure_all(setup, machine, device, world);
    if (world.rank() == 0) publish(report, options);
    world.barrier();  // nobody ends before all is out
  } catch (...) {
    report_and_abort(world, device);
  }
  return int(ExitCode::ok);
}

int bench_alone(const BenchOptions& options) {
  check_world_size(1);
  const int ranks = local_device_count();
  const BenchSetup setup = open_bench(options, ranks);
  check_outputs(options);
  if (ranks > 1) start_ranks(ranks);
  const CommPtr world = make_self_communicator("world");
  const RankPlace place;
  const at::Device device = device_for_rank("auto", 0);
  use_device(device);
  const PlanMachine machine = describe_bench_machine(setup, place, device, *world);
  check_memory(setup, machine, place, device);
  warn_of_slow_dtype(setup.dtype, device);
  publish(measure_all(setup, machine, device, *world), options);
  return int(ExitCode::ok);
}

// Of one rank: what others would do is to wait.
int bench_compare(BenchOptions options) {
  const LauncherEnvironment environment = launcher_environment();
  for (const auto& [variable, rank] : environment.ranks) {
    if (rank > 0) return int(ExitCode::usage);  // the first rank says it
  }
  for (const auto& [variable, size] : environment.world_sizes) {
    if (size == 1) continue;
    fail(ExitCode::usage, "--compare runs on one rank, and {} is {}; start it without mpirun, srun or launch",
         variable, size);
  }
  options.meshes = "single";
  options.steps = options.steps.value_or(20);
  const BenchSetup setup = open_bench(options, 1);
  const at::Device device = device_for_rank("auto", 0);
  std::vector<Variant> variants;
  for (const std::string& text : options.compare) variants.push_back(parse_variant(text, setup, device));
  check_outputs(options);
  const CommPtr world = make_self_communicator("world");
  note_ranks_met(*world);
  const RankPlace place;
  use_device(device);
  check_memory(setup, describe_bench_machine(setup, place, device, *world), place, device);
  for (const Variant& variant : variants) warn_of_slow_dtype(variant.dtype, device);
  const CompareReport report = compare_all(setup, variants, device);
  set_phase("write");
  print_output(compare_text(report));
  if (!options.json.empty()) write_file_atomically(options.json, compare_json(report).dump(2) + "\n");
  return int(ExitCode::ok);
}

}  // namespace

int bench_command(const BenchOptions& options) {
  cuda();  // loaded before the first tensor is made (core/cuda_module.h)
  set_phase("bench");
  if (!options.compare.empty()) return bench_compare(options);
  if (!launcher_environment().launched) return bench_alone(options);
  MpiSession mpi;
  log::set_rank(mpi.world().rank(), mpi.world().size());
  note_ranks_met(mpi.world());
  try {
    return bench_as_rank(options, mpi);
  } catch (const Ended& ended) {
    return ended.code;
  }
}

}  // namespace frameshard
