#include <numeric>

#include "core/cuda_module.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/stop.h"
#include "launcher/calibration.h"
#include "launcher/commands/run_parts.h"
#include "launcher/devices.h"
#include "launcher/doctor/versions_check.h"
#include "launcher/ending.h"
#include "launcher/failure.h"
#include "launcher/placement.h"
#include "launcher/settle.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

// Equal configurations may lie in files of different names; the run has one directory.
void use_first_ranks_name(Job& job, Communicator& world) {
  job.config.name = gather_texts(world, job.config.name).front();
  job.directory = std::filesystem::path(job.config.output.directory) / job.config.name;
}

// One look a host: hosts may have disks of their own, and what one of them has is there.
std::vector<UnitState> survey_hosts(const Job& job, const RankPlace& place, Communicator& world) {
  at::Tensor states = at::zeros({int64_t(job.units.size())}, at::kLong);
  all_or_none(world, [&] {
    auto* state = states.data_ptr<int64_t>();
    if (place.local_rank != 0) return;
    for (UnitState found : survey_outputs(job)) *state++ = int64_t(found);
  });
  world.all_reduce(states, ReduceOp::max);
  const auto* all = states.data_ptr<int64_t>();
  std::vector<UnitState> found;
  for (size_t i = 0; i < job.units.size(); ++i) found.push_back(UnitState(all[i]));
  return found;
}

// What the configuration says of places, made to fit each host; after the ranks have agreed on it.
void settle_together(Job& job, const RankPlace& place, Communicator& world) {
  all_or_none(world, [&] {
    for (const std::string& line : settle_places(job.config, devices_here())) {
      if (place.local_rank == 0) log::warning("{}", line);
    }
  });
  if (world.rank() != 0) return;
  for (const std::string& line : {contradiction(job.config), unused_gpu(job.config, idle_cards())}) {
    if (!line.empty()) log::warning("{}", line);
  }
}

// A job that all ranks agree on.
Job open_together(const RunOptions& options, const MpiSession& mpi, Communicator& world) {
  Job job;
  all_or_none(world, [&] {
    check_world_size(world.size());
    check_rank(mpi.launcher_rank(), mpi.local_rank());
  });
  all_or_none(world, [&] { check_same_versions(own_versions(), world); });
  all_or_none(world, [&] { job = open_job(options.config, options.overrides, options.fail_fast); });
  all_or_none(world, [&] {
    check_agreement(job, world);
    check_same_options(options.observe, world);
  });
  use_first_ranks_name(job, world);
  job.failure_token = shared_token(world);
  return job;
}

// Throws Ended when the job was stopped; every other failure ends the process here.
Generated generate_together(const RunOptions& options, const Job& job, const RunPlan& plan,
                            const RankPlace& place, Communicator& world, std::unique_ptr<Exporter> exporter) {
  ModelCache models;
  const JobIdentity identity{job.directory, job.failure_token, rank_device(job.config, place).str()};
  std::optional<Observer> observer;
  try {
    observer.emplace(world, options.observe, observed(job, place, plan, world.rank()), std::move(exporter));
    Generated made = generate(job, plan, place, world, {models, *observer});
    world.barrier();
    return made;
  } catch (const Error& error) {
    if (error.code() != ExitCode::stopped) report_and_abort(identity, world);
    observer.reset();
    throw Ended{end_stopped(error, world)};
  } catch (...) {
    report_and_abort(identity, world);
  }
}

int run_rank(const RunOptions& options, MpiSession& mpi) {
  Communicator& world = mpi.world();
  Job job = open_together(options, mpi, world);
  RankPlace place{.rank = world.rank(),
                  .local_rank = mpi.local_rank(),
                  .local_size = mpi.local_size(),
                  .under_mpi = true};
  settle_together(job, place, world);
  PlanMachine machine = describe_together(job, place, world);
  if (measures_speeds(job.config)) {
    const ModelFacts facts = model_facts(job, machine.device);
    machine.speeds = measured_speeds(job.config, facts, machine, place, world);
  }
  job.found = survey_hosts(job, place, world);
  RunPlan plan;
  std::unique_ptr<Exporter> exporter;
  all_or_none(world, [&] {
    plan = make_plan(job.config, model_facts(job, machine.device), machine);
    if (world.rank() != 0) return;
    prepare_outputs(job);
    exporter = exporter_of(options);
  });
  print_plan(plan, job, world.rank());
  if (world.rank() == 0 && (job.config.infer.parallel == "off" || job.config.infer.max_devices)) {
    log::warning(
        "infer.parallel and infer.max_devices have no effect here: the launcher has started {} rank{}",
        world.size(), world.size() == 1 ? "" : "s");
  }
  stop_on_sigterm_and_sigint();
  const Generated made = generate_together(options, job, plan, place, world, std::move(exporter));
  print_videos(made);
  // Nobody ends with a code, and has the others killed, before all is out.
  world.barrier();
  if (world.rank() == 0) print_failures(made);
  world.barrier();
  return int(made.code);
}

}  // namespace

PlanMachine describe_together(const Job& job, RankPlace& place, Communicator& world) {
  divide_cores(place, world);
  if (!job.config.infer.pin_threads) place.own_cpus.clear();
  const bool own_gpus = have_own_gpus(place, world);
  PlanMachine machine;
  all_or_none(world,
              [&] { machine = describe_machine(job, place, world.size(), place.local_size, own_gpus); });
  // Where nodes have unequal numbers of ranks, groups of their common divisor lie inside them.
  for (const auto& numbers : gather_numbers(
           world,
           {double(place.local_size), double(machine.threads_per_rank), double(machine.memory_bytes)})) {
    machine.ranks_per_node = std::gcd(machine.ranks_per_node, int(numbers[0]));
    machine.threads_per_rank = std::min(machine.threads_per_rank, int(numbers[1]));
    machine.memory_bytes = std::min(machine.memory_bytes, int64_t(numbers[2]));
  }
  return machine;
}

int run_under_mpi(const RunOptions& options) {
  return as_mpi_rank([&](MpiSession& mpi) { return run_rank(options, mpi); });
}

}  // namespace frameshard
