// `run` without mpirun or srun: one rank, or several in threads.
#include "core/cuda_module.h"
#include "core/error.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/stop.h"
#include "launcher/calibration.h"
#include "launcher/commands/run_parts.h"
#include "launcher/devices.h"
#include "launcher/ending.h"
#include "launcher/failure.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/self.h"
#include "parallel/comm/thread.h"

namespace frameshard {
namespace {

Generated generate_or_report(const Job& job, const RunPlan& plan, const RankPlace& place, Communicator& world,
                             const RankTools& tools) {
  try {
    return generate(job, plan, place, world, tools);
  } catch (const OtherRankFailed&) {
    throw;
  } catch (...) {
    report_and_throw({job.directory, "", rank_device(job.config, place).str()}, world);
  }
}

RunPlan plan_job(const Job& job, const RankPlace& place, int ranks) {
  PlanMachine machine = describe_threads(job, ranks);
  const ModelFacts facts = model_facts(job, machine.device);
  if (measures_speeds(job.config)) machine.speeds = speeds_of_threads(job.config, facts, machine, place);
  return make_plan(job.config, facts, machine);
}

struct PlannedRanks {
  RankPlace place;
  RunPlan plan;
};

PlannedRanks plan_ranks(const Job& job) {
  const RankCount count = ranks_alone(job.config, devices_here(), local_device_count());
  auto planned = [&](int ranks) {
    const RankPlace place = place_of_threads(ranks);
    return PlannedRanks{place, plan_job(job, place, ranks)};
  };
  std::string too_small;
  try {
    PlannedRanks all = planned(count.ranks);
    const Prediction& predicted = all.plan.predicted;
    too_small = too_small_to_gain(count, predicted.total_seconds, predicted.speedup);
    if (too_small.empty()) return all;
  } catch (const Error& error) {
    if (!count.chosen || error.code() != ExitCode::config) throw;
    too_small = fmt::format("one device is used, and not {}: {}", count.ranks, error.what());
  }
  log::warning("{}", too_small);
  return planned(1);
}

int run_alone(const RunOptions& options) {
  set_phase("validation");
  check_world_size(1);
  Job job = open_job(options.config, options.overrides, options.fail_fast);
  settle_here(job.config);
  const auto [place, plan] = plan_ranks(job);
  const CommPtr self = make_self_communicator("world");
  job.found = survey_outputs(job);
  prepare_outputs(job);
  print_plan(plan, job, 0);

  std::unique_ptr<Exporter> exporter = exporter_of(options);
  stop_on_sigterm_and_sigint();
  ModelCache models;
  Generated all;
  std::mutex mutex;
  auto body = [&, &place = place, &plan = plan](Communicator& world) {
    RankPlace mine = place;
    mine.rank = mine.local_rank = world.rank();
    Observer observer(world, options.observe, observed(job, mine, plan, world.rank()),
                      world.rank() == 0 ? std::move(exporter) : nullptr);
    Generated made = generate_or_report(job, plan, mine, world, {models, observer});
    std::lock_guard lock(mutex);
    all.videos.merge(made.videos);
    all.code = made.code;
    all.failures = made.failures;
  };
  if (place.local_size == 1) {
    body(*self);
  } else {
    run_ranks(place.local_size, body);
  }
  print_videos(all);
  print_failures(all);
  return int(all.code);
}

}  // namespace

int run_command(const RunOptions& options) {
  stop_on_sigusr1();  // before there are threads
  cuda();             // loaded before the first tensor is made (core/cuda_module.h)
  return launcher_environment().launched ? run_under_mpi(options) : run_alone(options);
}

}  // namespace frameshard
