#include <chrono>
#include <cstdio>
#include <thread>

#include <unistd.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/host.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/stop.h"
#include "launcher/commands/commands.h"
#include "launcher/doctor/versions_check.h"
#include "launcher/failure.h"
#include "launcher/generate.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/self.h"
#include "parallel/comm/text.h"
#include "parallel/comm/thread.h"

namespace frameshard {
namespace {

void print_videos(const Generated& made) {
  std::fflush(stderr);
  for (const auto& [unit, video] : made.videos) fmt::print("{}\n", video.string());
  std::fflush(stdout);
}

void print_failures(const Generated& made) {
  if (!made.failures.empty()) log::print(fmt::format("FAILED: {}\n", made.failures));
}

RunPlan plan_job(const Job& job, const RankPlace& place, int world, int ranks_per_node, bool own_gpu) {
  const PlanMachine machine = describe_machine(job, place, world, ranks_per_node, own_gpu);
  return make_plan(job.config, model_facts(job, machine.device), machine);
}

void print_plan(const RunPlan& plan, const Job& job, int rank) {
  if (rank != 0) return;
  log::info("{}", describe(plan, model_facts(job, plan.machine.device)));
}

at::Device rank_device(const Job& job, const RankPlace& place) {
  return device_for_rank(job.config.infer.device, place.local_rank);
}

std::string device_text(const Job& job, const RankPlace& place) {
  return rank_device(job, place).str();
}

ObservedRank observed(const Job& job, const RankPlace& place, const RunPlan& plan, int rank) {
  return {.device = rank_device(job, place), .replica = coord_of(rank, plan.mesh).dp};
}

std::unique_ptr<Exporter> exporter_of(const ObserveOptions& options) {
  return options.prometheus.empty() ? nullptr : open_exporter(options.prometheus);
}

// ---- this process alone: one rank, or several in threads ----

int64_t fixed_ranks(const Job& job) {
  const DiffusionConfig& sizes = job.config.infer.diffusion;
  return sizes.dp_size.value.value_or(1) * sizes.cfg_size.value.value_or(1) * sizes.cp_size.value.value_or(1);
}

int ranks_alone(const Job& job) {
  const int64_t fixed = fixed_ranks(job);
  if (job.config.infer.backend == "threads" && fixed > 256) {
    fail(ExitCode::config, "dp*cfg*cp = {} ranks as threads of one process; at most 256 make sense", fixed);
  }
  if (job.config.infer.backend == "threads") return fixed > 1 ? int(fixed) : local_device_count();
  if (fixed > 1) {
    fail(ExitCode::config,
         "dp*cfg*cp = {} but 1 rank was started; start {} ranks (mpirun -n {} frameshard run ..., or "
         "frameshard launch "
         "--nproc-per-node {} run ...), or set infer.backend=threads",
         fixed, fixed, fixed, fixed);
  }
  return 1;
}

Generated generate_or_report(const Job& job, const RunPlan& plan, const RankPlace& place, Communicator& world,
                             const RankTools& tools) {
  try {
    return generate(job, plan, place, world, tools);
  } catch (const OtherRankFailed&) {
    throw;
  } catch (...) {
    const Failure failure = current_failure();
    write_failure_file(job.directory, failure, world.rank(), current_phase());
    throw RankFailure(failure.code, failure_line(failure, world.rank(), world.size(), device_text(job, place),
                                                 current_phase()));
  }
}

int run_alone(const RunOptions& options) {
  set_phase("validation");
  check_world_size(1);
  Job job = open_job(options.config, options.overrides, options.fail_fast);
  const int ranks = ranks_alone(job);
  const CommPtr self = make_self_communicator("world");
  RankPlace place{.local_size = ranks, .cores = std::max(1, allowed_cores() / ranks)};
  const RunPlan plan = plan_job(job, place, ranks, ranks, cuda() && ranks <= cuda()->device_count());
  job.found = survey_outputs(job);
  prepare_outputs(job);
  print_plan(plan, job, 0);

  std::unique_ptr<Exporter> exporter = exporter_of(options.observe);
  ModelCache models;
  Generated all;
  std::mutex mutex;
  auto body = [&](Communicator& world) {
    RankPlace mine = place;
    mine.local_rank = world.rank();
    Observer observer(world, options.observe, observed(job, mine, plan, world.rank()),
                      world.rank() == 0 ? std::move(exporter) : nullptr);
    Generated made = generate_or_report(job, plan, mine, world, {models, observer});
    std::lock_guard lock(mutex);
    all.videos.merge(made.videos);
    all.code = made.code;
    all.failures = made.failures;
  };
  if (ranks == 1) {
    body(*self);
  } else {
    run_ranks(ranks, body);
  }
  print_videos(all);
  print_failures(all);
  return int(all.code);
}

// ---- one rank of several processes ----

template <class Action>
Failure attempt(Action action) {
  try {
    action();
    return {.code = ExitCode::ok, .message = ""};
  } catch (...) {
    return current_failure();
  }
}

// All ranks learn of every failure; the lowest rank that failed reports it, and all end with its code.
int settle(const Failure& mine, Communicator& world) {
  const auto all = gather_texts(world, std::to_string(int(mine.code)));
  for (int rank = 0; rank < world.size(); ++rank) {
    const int code = std::stoi(all[size_t(rank)]);
    if (code == 0) continue;
    if (rank == world.rank()) {
      log::print(fmt::format("FAILED at {}: {}\n", current_phase(), mine.message));
    }
    world.barrier();  // nobody ends, and has the others killed, before the message is out
    return code;
  }
  return 0;
}

std::string shared_token(Communicator& world) {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return gather_texts(world, fmt::format("{}-{}", getpid(), now)).front();
}

// Equal configurations may lie in files of different names; the run has one directory.
void use_first_ranks_name(Job& job, Communicator& world) {
  job.config.name = gather_texts(world, job.config.name).front();
  job.directory = std::filesystem::path(job.config.output.directory) / job.config.name;
}

// One look a host: hosts may have disks of their own, and what one of them has is there.
std::vector<UnitState> survey_hosts(const Job& job, const RankPlace& place, Communicator& world) {
  at::Tensor states = at::zeros({int64_t(job.units.size())}, at::kLong);
  auto* state = states.data_ptr<int64_t>();
  if (place.local_rank == 0) {
    for (UnitState found : survey_outputs(job)) *state++ = int64_t(found);
  }
  world.all_reduce(states, ReduceOp::max);
  const auto* all = states.data_ptr<int64_t>();
  std::vector<UnitState> found;
  for (size_t i = 0; i < job.units.size(); ++i) found.push_back(UnitState(all[i]));
  return found;
}

[[noreturn]] void report_and_abort(const Job& job, const RankPlace& place, Communicator& world) {
  const Failure failure = current_failure();
  const FailureClaim claim(job.directory, job.failure_token);
  if (claim.mine()) {
    write_failure_file(job.directory, failure, world.rank(), current_phase());
    const auto line =
        failure_line(failure, world.rank(), world.size(), device_text(job, place), current_phase());
    log::print(line + "\n");
  }
  // Ranks that fail in the same moment must find the claim, and the one that reports must not be killed
  // meanwhile.
  std::this_thread::sleep_for(std::chrono::milliseconds(claim.mine() ? 200 : 2000));
  if (claim.mine()) claim.release();
  abort_all_ranks(int(failure.code));
}

// All replicas save what they have, and end together.
int end_stopped(const Error& stop, Communicator& world) {
  const std::string phase = current_phase();
  world.barrier();
  if (world.rank() == 0) log::print(fmt::format("FAILED at {}: {}\n", phase, stop.what()));
  world.barrier();
  return int(ExitCode::stopped);
}

int run_under_mpi(const RunOptions& options) {
  MpiSession mpi;
  Communicator& world = mpi.world();
  log::set_rank(world.rank(), world.size());
  set_phase("validation");

  Job job;
  Failure failure = attempt([&] {
    check_world_size(world.size());
    check_rank(mpi.launcher_rank(), mpi.local_rank());
  });
  if (const int code = settle(failure, world)) return code;
  failure = attempt([&] { check_same_versions(own_versions(), world); });
  if (const int code = settle(failure, world)) return code;
  failure = attempt([&] { job = open_job(options.config, options.overrides, options.fail_fast); });
  if (const int code = settle(failure, world)) return code;
  failure = attempt([&] {
    check_agreement(job, world);
    check_same_options(options.observe, world);
  });
  if (const int code = settle(failure, world)) return code;
  use_first_ranks_name(job, world);

  RankPlace place{.local_rank = mpi.local_rank(), .local_size = mpi.local_size(), .under_mpi = true};
  divide_cores(place, world);
  // The plan must be the same everywhere: what differs between hosts is settled first.
  at::Tensor least = at::tensor({int64_t(cuda() && place.local_size <= cuda()->device_count()),
                                 int64_t(place.local_size), int64_t(place.cores)});
  world.all_reduce(least, ReduceOp::min);
  place.cores = least[2].item<int>();
  if (!job.config.infer.pin_threads) place.own_cpus.clear();
  job.found = survey_hosts(job, place, world);
  RunPlan plan;
  std::unique_ptr<Exporter> exporter;
  failure = attempt([&] {
    plan = plan_job(job, place, world.size(), int(least[1].item<int64_t>()), least[0].item<int64_t>() != 0);
    if (world.rank() != 0) return;
    prepare_outputs(job);
    exporter = exporter_of(options.observe);
  });
  if (const int code = settle(failure, world)) return code;
  print_plan(plan, job, world.rank());
  job.failure_token = shared_token(world);

  Generated made;
  ModelCache models;
  std::optional<Observer> observer;
  try {
    observer.emplace(world, options.observe, observed(job, place, plan, world.rank()), std::move(exporter));
    made = generate(job, plan, place, world, {models, *observer});
    world.barrier();
  } catch (const Error& error) {
    if (error.code() != ExitCode::stopped) report_and_abort(job, place, world);
    observer.reset();
    return end_stopped(error, world);
  } catch (...) {
    report_and_abort(job, place, world);
  }
  observer.reset();  // the last table comes before what is left to say
  print_videos(made);
  // Nobody ends with a code, and has the others killed, before all is out.
  world.barrier();
  if (world.rank() == 0) print_failures(made);
  world.barrier();
  return int(made.code);
}

}  // namespace

int run_command(const RunOptions& options) {
  cuda();  // loaded before the first tensor is made (core/cuda_module.h)
  stop_on_signals();
  return launcher_environment().launched ? run_under_mpi(options) : run_alone(options);
}

}  // namespace frameshard
