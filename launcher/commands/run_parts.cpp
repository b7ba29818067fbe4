#include "launcher/commands/run_parts.h"

#include <cstdio>

#include "core/device.h"
#include "core/log.h"

namespace frameshard {

void print_videos(const Generated& made) {
  std::fflush(stderr);
  for (const auto& [unit, video] : made.videos) fmt::print("{}\n", video.string());
  std::fflush(stdout);
}

void print_failures(const Generated& made) {
  if (!made.failures.empty()) log::print(fmt::format("FAILED: {}\n", made.failures));
}

void print_plan(const RunPlan& plan, const Job& job, int rank) {
  if (rank != 0) return;
  log::info("{}", describe(plan, model_facts(job, plan.machine.device)));
}

at::Device rank_device(const Job& job, const RankPlace& place) {
  return device_for_rank(job.config.infer.device, place.local_rank);
}

ObservedRank observed(const Job& job, const RankPlace& place, const RunPlan& plan, int rank) {
  return {.device = rank_device(job, place), .replica = coord_of(rank, plan.mesh).dp};
}

std::unique_ptr<Exporter> exporter_of(const ObserveOptions& options) {
  return options.prometheus.empty() ? nullptr : open_exporter(options.prometheus);
}

}  // namespace frameshard
