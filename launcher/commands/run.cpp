// `run` without mpirun or srun: one rank, or several in threads.
#include "core/cuda_module.h"
#include "core/host.h"
#include "core/phase.h"
#include "core/stop.h"
#include "launcher/commands/run_parts.h"
#include "launcher/devices.h"
#include "launcher/failure.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/self.h"
#include "parallel/comm/thread.h"

namespace frameshard {
namespace {

int64_t fixed_ranks(const Job& job) {
  const DiffusionConfig& sizes = job.config.infer.diffusion;
  return sizes.dp_size.value.value_or(1) * sizes.cfg_size.value.value_or(1) * sizes.cp_size.value.value_or(1);
}

int ranks_alone(const Job& job) {
  const int64_t fixed = fixed_ranks(job);
  const size_t devices = job.config.devices.size();
  if (devices > 1 && job.config.infer.backend != "mpi") return int(devices);  // a thread each
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
    throw RankFailure(failure.code, failure_line(failure, world.rank(), world.size(),
                                                 rank_device(job.config, place).str(), current_phase()));
  }
}

RunPlan plan_job(const Job& job, const RankPlace& place, int ranks) {
  const bool own_gpu = cuda() && ranks <= cuda()->device_count();
  const PlanMachine machine = describe_machine(job, place, ranks, ranks, own_gpu);
  return make_plan(job.config, model_facts(job, machine.device), machine);
}

int run_alone(const RunOptions& options) {
  set_phase("validation");
  check_world_size(1);
  Job job = open_job(options.config, options.overrides, options.fail_fast);
  const int ranks = ranks_alone(job);
  const CommPtr self = make_self_communicator("world");
  RankPlace place{.local_size = ranks, .cores = std::max(1, allowed_cores() / ranks)};
  const RunPlan plan = plan_job(job, place, ranks);
  job.found = survey_outputs(job);
  prepare_outputs(job);
  print_plan(plan, job, 0);

  std::unique_ptr<Exporter> exporter = exporter_of(options);
  stop_on_sigterm();
  ModelCache models;
  Generated all;
  std::mutex mutex;
  auto body = [&](Communicator& world) {
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
  if (ranks == 1) {
    body(*self);
  } else {
    run_ranks(ranks, body);
  }
  print_videos(all);
  print_failures(all);
  return int(all.code);
}

}  // namespace

int run_command(const RunOptions& options) {
  cuda();  // loaded before the first tensor is made (core/cuda_module.h)
  stop_on_sigusr1();
  return launcher_environment().launched ? run_under_mpi(options) : run_alone(options);
}

}  // namespace frameshard
