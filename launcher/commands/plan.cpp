#include "core/device.h"
#include "core/error.h"
#include "launcher/commands/commands.h"
#include "launcher/job.h"

namespace frameshard {

int plan_command(const std::string& config, const std::vector<std::string>& overrides,
                 const PlanOptions& options) {
  const Job job = open_job(config, overrides);
  PlanMachine machine{.world = options.world, .ranks_per_node = options.ranks_per_node};
  machine.device = options.device == "auto" ? device_type(job.config.infer.device) : options.device;
  if (job.config.infer.backend != "auto") {
    machine.backend = job.config.infer.backend;
  } else {
    machine.backend = machine.device == "cuda" ? "nccl" : "mpi";
  }
  machine.threads_per_rank = int(job.config.infer.threads_per_rank.value.value_or(1));
  const ModelFacts facts = model_facts(job, machine.device);
  const RunPlan plan = make_plan(job.config, facts, machine);
  fmt::print("{}", describe(plan, facts));
  if (options.world > 1) fmt::print("{}", describe_alternatives(all_plans(job.config, facts, machine)));
  return int(ExitCode::ok);
}

}  // namespace frameshard
