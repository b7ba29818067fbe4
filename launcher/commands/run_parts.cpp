#include "launcher/commands/run_parts.h"

#include <cstdio>

#include <unistd.h>

#include "core/host.h"
#include "core/log.h"
#include "core/phase.h"
#include "launcher/commands/output.h"
#include "launcher/devices.h"
#include "launcher/placement.h"
#include "launcher/precision.h"
#include "launcher/settle.h"

namespace frameshard {

int as_mpi_rank(const std::function<int(MpiSession& mpi)>& rank) {
  MpiSession mpi;
  log::set_rank(mpi.world().rank(), mpi.world().size());
  note_ranks_met(mpi.world());
  set_phase("validation");
  try {
    return rank(mpi);
  } catch (const Ended& ended) {
    return ended.code;
  }
}

void settle_here(RunConfig& config) {
  const DevicesHere here = devices_here();
  std::vector<std::string> lines{contradiction(config), unused_gpu(config, idle_cards())};
  for (const auto& more :
       {skip_missing_devices(config, here), limit_devices(config), settle_places(config, here)}) {
    lines.insert(lines.end(), more.begin(), more.end());
  }
  for (const std::string& line : lines) {
    if (!line.empty()) log::warning("{}", line);
  }
}

void print_videos(const Generated& made) {
  std::fflush(stderr);
  for (const auto& [unit, video] : made.videos) print_output(video.string() + "\n");
}

void print_failures(const Generated& made) {
  if (!made.failures.empty()) log::print(fmt::format("FAILED: {}\n", made.failures));
}

void print_plan(const RunPlan& plan, const Job& job, int rank) {
  if (rank != 0) return;
  log::info("{}", describe(plan, model_facts(job, plan.machine.device)));
  const auto entries = int(std::max<size_t>(1, job.config.devices.size()));
  for (int entry = 0; entry < entries; ++entry) {
    const bool on_gpu = device_type_of(job.config, size_t(entry), plan.machine.device) == "cuda";
    const at::Device device(on_gpu ? at::kCUDA : at::kCPU);
    if (warn_of_slow_dtype(denoiser_dtype(job.config, device, entry), device)) break;
  }
  // All of the host's, whichever of them mpirun has left to this rank.
  const int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
  const int64_t wanted = int64_t(plan.machine.node_ranks()) * plan.machine.threads_per_rank;
  if (plan.machine.device == "cpu" && wanted > cores) {
    log::warning(
        "{} threads of the ranks share {} core{}: the predicted times are of a core each; start fewer",
        wanted, cores, cores == 1 ? "" : "s");
  }
  for (const std::string& note : placement_notes(job.config)) log::warning("{}", note);
  for (const std::string& note : job.lora.notes) log::info("{}", note);
  constexpr int64_t tolerated = 4;  // times the cores
  const int64_t threads = job.config.infer.threads_per_rank.value.value_or(1);
  if (threads > tolerated * allowed_cores()) {
    log::warning(
        "infer.threads_per_rank is {} and this process may use {} cores: its threads hinder each other",
        threads, allowed_cores());
  }
}

ObservedRank observed(const Job& job, const RankPlace& place, const RunPlan& plan, int rank) {
  return {.device = rank_device(job.config, place), .replica = coord_of(rank, plan.mesh).dp};
}

std::unique_ptr<Exporter> exporter_of(const RunOptions& options) {
  const std::string& target = options.observe.prometheus;
  return target.empty() ? nullptr : open_exporter(target, options.config);
}

}  // namespace frameshard
