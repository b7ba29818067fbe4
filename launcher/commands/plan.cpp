#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"
#include "core/host.h"
#include "core/log.h"
#include "launcher/calibration.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/output.h"
#include "launcher/commands/run_parts.h"
#include "launcher/devices.h"
#include "launcher/job.h"
#include "launcher/placement.h"
#include "launcher/plan_world.h"
#include "parallel/hardware.h"
#include "parallel/plan_json.h"

namespace frameshard {
namespace {

void set_interconnect(PlanMachine& machine, const PlanOptions& options) {
  machine.interconnect = options.interconnect;
  if (!options.interconnect.empty() && interconnect(options.interconnect).rate == 0 && machine.nodes() > 1) {
    fail(ExitCode::usage, "--interconnect none joins no nodes, and {} were asked for; known are {}",
         machine.nodes(), interconnect_names());
  }
}

PlanMachine planned_machine(const RunConfig& config, const PlanOptions& options, const PlanWorld& world) {
  const InferConfig& infer = config.infer;
  const DeviceKind& kind = device_kind(options.device == "auto" ? device_type(config) : options.device);
  PlanMachine machine{.world = world.ranks, .ranks_per_node = world.ranks_per_node};
  machine.speeds = rank_speeds(config, world.ranks);
  machine.device = kind.type, machine.hardware = kind.name, machine.memory_bytes = memory_of(kind);
  set_interconnect(machine, options);
  machine.backend = infer.backend != "auto" ? infer.backend : machine.device == "cuda" ? "nccl" : "mpi";
  machine.shared_weights =
      machine.world > 1 && machine.device == "cpu" && (machine.backend == "threads" || infer.share_weights);
  machine.threads_per_rank = int(infer.threads_per_rank.value.value_or(1));
  describe_places(machine, config);
  return machine;
}

// As `run` alone would be planned here, whose ranks are threads of one process; says so in `world`.
PlanMachine machine_here(const Job& job, const PlanOptions& options, const RankCount& count,
                         PlanWorld& world) {
  if (count.ranks != world.ranks) world = {count.ranks, count.ranks, "the devices that are here"};
  PlanMachine machine = describe_threads(job, count.ranks);
  set_interconnect(machine, options);
  return machine;
}

// Those that a run here would find. Of threads it takes what there are, and not one for the plan's rates.
std::vector<double> speeds_as_run(const RunConfig& config, const ModelFacts& facts, PlanMachine machine) {
  const int cores = std::max(1, allowed_cores() / machine.node_ranks());
  machine.threads_per_rank = int(config.infer.threads_per_rank.value.value_or(omp_threads(cores)));
  return known_speeds(config, facts, machine);
}

}  // namespace

int plan_command(const std::string& config, const std::vector<std::string>& overrides,
                 const PlanOptions& options) {
  PlanWorld world = plan_world(options);
  Job job = open_job(config, overrides, /*fail_fast=*/false);          // as `run` would go on
  const bool here = world.source.empty() && options.device == "auto";  // as `run` alone would find it
  if (here) {
    settle_here(job.config);
  } else if (world.source.empty()) {
    limit_devices(job.config);
  }
  count_devices(world, job.config);
  const RankCount count = here ? ranks_alone(job.config, devices_here(), local_device_count()) : RankCount{};
  PlanMachine machine =
      here ? machine_here(job, options, count, world) : planned_machine(job.config, options, world);
  const ModelFacts facts = model_facts(job, machine.device);
  if (measures_speeds(job.config) && options.device == "auto") {
    machine.speeds = speeds_as_run(job.config, facts, machine);
  }
  const RunPlan plan = make_plan(job.config, facts, machine);
  const std::string too_small =
      too_small_to_gain(count, plan.predicted.total_seconds, plan.predicted.speedup);
  if (!too_small.empty()) log::warning("{}", too_small);
  const MeshChoices choices = rank_meshes(job.config, facts, machine);
  if (options.json) {
    Json json = plan_json(plan, choices, facts);
    json["machine"]["ranks_from"] = world.source.empty() ? Json(nullptr) : Json(world.source);
    print_output(json.dump(2) + "\n");
    return int(ExitCode::ok);
  }
  print_output(fmt::format("{}\n{}", world.text(), describe(plan, facts)));
  constexpr size_t rows = 12;
  if (world.ranks > 1) print_output(describe_choices(choices, options.all ? 0 : rows));
  return int(ExitCode::ok);
}

}  // namespace frameshard
