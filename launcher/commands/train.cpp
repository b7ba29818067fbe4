// `train`: alone, as threads, or as one of several processes; a sibling of run.cpp and run_mpi.cpp.
#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"
#include "core/host.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/stop.h"
#include "core/tensor_memory.h"
#include "launcher/commands/output.h"
#include "launcher/commands/run_parts.h"
#include "launcher/devices.h"
#include "launcher/doctor/versions_check.h"
#include "launcher/ending.h"
#include "launcher/failure.h"
#include "launcher/plan_world.h"
#include "launcher/settle.h"
#include "launcher/train/trainer.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/self.h"
#include "parallel/comm/text.h"
#include "parallel/comm/thread.h"
#include "parallel/hardware.h"

namespace frameshard {
namespace {

// Every item of the data, in the order that a training would make of them.
std::pair<SampleOrder, std::vector<size_t>> order_of(const TrainJob& job) {
  std::vector<int64_t> repeats;
  std::vector<size_t> items;
  for (const DataItem& item : job.data->items()) {
    items.push_back(items.size());
    repeats.push_back(item.repeats);
  }
  return {SampleOrder(repeats, uint64_t(job.config.train.seed)), items};
}

TrainPlan plan_of(const TrainJob& job, const PlanMachine& machine, TrainFacts* facts = nullptr) {
  const auto [order, items] = order_of(job);
  const TrainFacts numbers = train_facts(job, machine, order, items);
  if (facts) *facts = numbers;
  return make_train_plan(job.config, numbers);
}

int print_train_plan(const TrainOptions& options) {
  TrainJob job = open_train_job_for_plan(options.config, options.overrides);
  const RunConfig& config = job.run.config;
  const bool here = options.device == "auto";
  const DeviceKind& kind = device_kind(here ? device_type(config) : options.device);
  PlanWorld asked = plan_world({.world = options.world});
  const bool alone = here && asked.source.empty();
  count_devices(asked, config);
  PlanMachine machine{.world = asked.ranks, .ranks_per_node = asked.ranks_per_node};
  if (alone) {
    machine.world = machine.ranks_per_node = ranks_alone(config, devices_here(), local_device_count()).ranks;
  }
  machine.device = kind.type, machine.hardware = kind.name;
  machine.memory_bytes = memory_of(kind);
  machine.speeds = rank_speeds(config, machine.world);
  TrainFacts facts;
  const TrainPlan plan = plan_of(job, machine, &facts);
  print_output(describe(plan, job.config, facts) + "\n");
  for (const std::string& warning : plan.warnings) log::warning("{}", warning);
  return int(ExitCode::ok);
}

void train_alone(TrainJob& job, const RankPlace& place, const PlanMachine& machine, Communicator& world) {
  try {
    const Trained trained = Trainer(job, machine, place, world).run();
    set_phase("done");
    if (world.rank() == 0) print_output(trained.result.string() + "\n");
  } catch (const OtherRankFailed&) {
    throw;
  } catch (...) {
    report_and_throw({job.directory, "", rank_device(job.run.config, place).str()}, world);
  }
}

int run_alone(const TrainOptions& options) {
  set_phase("validation");
  check_world_size(1);
  TrainJob job = open_train_job(options.config, options.overrides);
  const RankCount count = ranks_alone(job.run.config, devices_here(), local_device_count());
  const RankPlace place = place_of_threads(count.ranks);
  const PlanMachine machine = describe_threads(job.run, count.ranks);
  plan_of(job, machine);
  prepare_train_outputs(job);
  stop_on_sigterm_and_sigint();
  if (count.ranks == 1) {
    train_alone(job, place, machine, *make_self_communicator("world"));
    return 0;
  }
  run_ranks(count.ranks, [&](Communicator& world) {
    TrainJob mine = open_train_job(options.config, options.overrides);
    RankPlace here = place;
    here.rank = here.local_rank = world.rank();
    train_alone(mine, here, machine, world);
  });
  return 0;
}

int run_rank(const TrainOptions& options, MpiSession& mpi) {
  Communicator& world = mpi.world();
  TrainJob job;
  all_or_none(world, [&] {
    check_world_size(world.size());
    check_rank(mpi.launcher_rank(), mpi.local_rank());
  });
  all_or_none(world, [&] { check_same_versions(own_versions(), world); });
  std::vector<std::pair<std::string, std::string>> identity;
  all_or_none(world, [&] {
    job = open_train_job(options.config, options.overrides);
    identity = train_identity(job);
  });
  all_or_none(world, [&] {
    for (const auto& [what, text] : identity) check_same_text(world, text, what);
  });
  // Equal configurations may lie in files of different names; the run has one directory.
  job.config.name = job.run.config.name = gather_texts(world, job.config.name).front();
  job.directory = job.run.directory = std::filesystem::path(job.config.output.directory) / job.config.name;
  RankPlace place{.rank = world.rank(),
                  .local_rank = mpi.local_rank(),
                  .local_size = mpi.local_size(),
                  .under_mpi = true};
  const PlanMachine machine = describe_together(job.run, place, world);
  all_or_none(world, [&] { plan_of(job, machine); });
  all_or_none(world, [&] {
    if (world.rank() == 0) prepare_train_outputs(job);
  });
  stop_on_sigterm_and_sigint();
  const JobIdentity failing{job.directory, shared_token(world), rank_device(job.run.config, place).str()};
  try {
    const Trained trained = Trainer(job, machine, place, world).run();
    world.barrier();
    if (world.rank() == 0) print_output(trained.result.string() + "\n");
    world.barrier();
    return 0;
  } catch (const Error& error) {
    if (error.code() != ExitCode::stopped) report_and_abort(failing, world);
    return end_stopped(error, world);
  } catch (...) {
    report_and_abort(failing, world);
  }
}

}  // namespace

int train_command(const TrainOptions& options) {
  if (options.plan) return print_train_plan(options);
  stop_on_sigusr1();  // before there are threads
  cuda();             // loaded before the first tensor is made (core/cuda_module.h)
  count_cpu_tensors();
  if (!launcher_environment().launched) return run_alone(options);
  return as_mpi_rank([&](MpiSession& mpi) { return run_rank(options, mpi); });
}

}  // namespace frameshard
