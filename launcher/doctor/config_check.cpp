#include "launcher/doctor/config_check.h"

#include "core/cuda_module.h"
#include "core/host.h"
#include "launcher/devices.h"
#include "launcher/doctor/plan_check.h"
#include "launcher/failure.h"
#include "launcher/job.h"
#include "parallel/comm/settle.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

constexpr int most_cp = 64;  // where the search for a cp_size that fits ends

// As `frameshard run` would be started: these ranks, or those that the sizes say.
int planned_ranks(const Job& job, const Communicator& world) {
  if (world.size() > 1) return world.size();
  if (!job.config.devices.empty()) return int(job.config.devices.size());
  const DiffusionConfig& sizes = job.config.infer.diffusion;
  const int64_t fixed =
      sizes.dp_size.value.value_or(1) * sizes.cfg_size.value.value_or(1) * sizes.cp_size.value.value_or(1);
  if (fixed > 1) return int(fixed);
  return ranks_alone(job.config, devices_here(), local_device_count()).ranks;
}

int64_t free_bytes(const std::string& device, const RankPlace& place) {
  if (device == "cuda") {
    const int gpus = cuda()->device_count();
    return cuda()->free_memory(place.local_rank % gpus) / ((place.local_size + gpus - 1) / gpus);
  }
  return host_available_bytes() / place.local_size;
}

int64_t needed_bytes(const Job& job, const RunConfig& config, const PlanMachine& machine) {
  return make_plan(config, model_facts(job, machine.device), machine).costs.peak_bytes;
}

// The plan's memory with other sizes of the sequence's group, all else equal.
int fitting_cp(const Job& job, const RunPlan& plan, int64_t free) {
  RunConfig config = job.config;
  config.infer.attention = {};
  PlanMachine machine = plan.machine;
  for (int cp = plan.mesh.cp + 1; cp <= most_cp; ++cp) {
    config.infer.diffusion = {.cp_size = {cp}, .cfg_size = {plan.mesh.cfg}, .dp_size = {plan.mesh.dp}};
    machine.world = plan.mesh.dp * plan.mesh.cfg * cp;
    try {
      if (needed_bytes(job, config, machine) <= free) return cp;
    } catch (const Error&) {  // this size does not fit the model or the video
    }
  }
  return 0;
}

bool bfloat16_fits(Job& job, const RunPlan& plan, int64_t free) {
  const std::string dtype = job.config.model.dtype;
  job.config.model.dtype = "bfloat16";
  const bool fits = needed_bytes(job, job.config, plan.machine) <= free;
  job.config.model.dtype = dtype;
  return fits;
}

PlanFacts plan_facts(Job& job, const RunPlan& plan, int64_t free) {
  PlanFacts facts{.dp = plan.mesh.dp,
                  .cp = plan.mesh.cp,
                  .ulysses = plan.attention.ulysses,
                  .tokens = plan.tokens.total(),
                  .largest_tokens = plan.tokens.largest(),
                  .heads = plan.heads.total(),
                  .largest_heads = plan.heads.largest(),
                  .videos = video_count(job.config),
                  .needed_bytes = plan.costs.peak_bytes,
                  .free_bytes = free};
  if (facts.needed_bytes > free) {
    facts.fitting_cp = fitting_cp(job, plan, free);
    facts.bfloat16_fits = bfloat16_fits(job, plan, free);
  }
  return facts;
}

Findings check_plan(Job& job, RankPlace place, Communicator& world) {
  const int ranks = planned_ranks(job, world);
  if (world.size() == 1) {
    place.local_size = ranks;
    place.under_mpi = job.config.infer.backend != "threads";
  }
  const bool own_gpu = have_own_gpus(place, world);
  const int ranks_per_node = int(reduce_number(world, place.local_size, ReduceOp::min));
  PlanMachine machine;
  RunPlan plan;
  settle(world, [&] {  // a host may lack what another one has
    machine = describe_machine(job, place, ranks, ranks_per_node, own_gpu);
    plan = make_plan(job.config, model_facts(job, machine.device), machine);
  });
  const int64_t free = reduce_number(world, free_bytes(machine.device, place), ReduceOp::min);

  Findings findings{ok("plan",
                       fmt::format("dp {} x cfg {} x cp {} on {} {} rank{}", plan.mesh.dp, plan.mesh.cfg,
                                   plan.mesh.cp, ranks, machine.device, ranks == 1 ? "" : "s"),
                       Scope::job)};
  for (const std::string& warning : plan.warnings) findings.push_back(note("plan", warning, Scope::job));
  const PlanFacts facts = plan_facts(job, plan, free);
  for (const Finding& finding : check_balance(facts)) findings.push_back(finding);
  findings.push_back(check_plan_memory(facts));
  return findings;
}

// The message says what to do by itself.
Finding failed(const char* subject, Scope scope) {
  return change(subject, current_failure().message, "", scope);
}

}  // namespace

ConfigReport check_config(const std::string& config, const std::vector<std::string>& overrides,
                          const RankPlace& place, Communicator& world) {
  ConfigReport report;
  Job job;
  try {
    job = open_job(config, overrides, /*fail_fast=*/false);  // as `run` and `plan` go on
  } catch (...) {
    report.findings.push_back(failed("config", Scope::rank));
  }
  if (on_any(!report.findings.empty(), world)) return report;
  report.device = job.config.infer.device, report.backend = job.config.infer.backend;
  try {
    check_agreement(job, world);
    report.findings.push_back(
        ok("config", config + " can be used" + (world.size() > 1 ? ", and is the same on all ranks" : ""),
           Scope::job));
    for (const auto& [request, fault] : job.faults) {
      report.findings.push_back(note(
          "config", fmt::format("{} fails, the others go on: {}", job.requests[request].id, fault.message),
          Scope::job));
    }
  } catch (...) {
    report.findings.push_back(failed("config", Scope::job));
    return report;
  }
  try {
    for (const Finding& finding : check_plan(job, place, world)) report.findings.push_back(finding);
  } catch (...) {
    report.findings.push_back(failed("plan", Scope::job));
  }
  return report;
}

}  // namespace frameshard
