// The plan in words.
#include "core/host.h"
#include "parallel/plan.h"

namespace frameshard {
namespace {

std::string sizes_text(const Partition& partition) {
  const auto& sizes = partition.sizes();
  if (partition.parts() == 1) return std::to_string(sizes[0]);
  const bool equal = std::all_of(sizes.begin(), sizes.end(), [&](int64_t s) { return s == sizes[0]; });
  if (equal) return fmt::format("{} each of {}", sizes[0], partition.total());
  if (partition.parts() <= 8) return fmt::format("{} of {}", fmt::join(sizes, "+"), partition.total());
  return fmt::format("{} to {} of {}", sizes.back(), sizes.front(), partition.total());
}

std::string groups_text(const RunPlan& plan) {
  std::vector<std::string> names;
  for (const char* axis : {"cp", "cfg", "dp"}) {
    for (int rank = 0; rank < plan.mesh.ranks(); ++rank) {
      const auto ranks = group_ranks(rank, plan.mesh, axis);
      if (ranks.size() > 1 && ranks.front() == rank) names.push_back(group_name(axis, ranks));
    }
  }
  if (names.size() > 12) names.resize(12), names.push_back("...");
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, " "));
}

}  // namespace

std::string describe(const RunPlan& plan, const ModelFacts& model) {
  const auto& m = plan.machine;
  const auto& c = plan.costs;
  std::string text;
  auto line = [&](const char* label, const std::string& value) {
    text += fmt::format("  {:<10}{}\n", label, value);
  };
  text += fmt::format("plan: {} on {} {} rank{}\n", model.name, plan.mesh.ranks(), m.device,
                      plan.mesh.ranks() == 1 ? "" : "s");
  line("mesh", fmt::format("dp {} x cfg {} x cp {}, attention ulysses {} x ring {}", plan.mesh.dp,
                           plan.mesh.cfg, plan.mesh.cp, plan.attention.ulysses, plan.attention.ring));
  line("groups", groups_text(plan));
  line("backend", plan.mesh.ranks() == 1
                      ? fmt::format("none needed, {} threads", m.threads_per_rank)
                      : fmt::format("{}, {} thread{} a rank", m.backend, m.threads_per_rank,
                                    m.threads_per_rank == 1 ? "" : "s"));
  line("video", fmt::format("{}x{}, {} frames, {} steps, guidance {}", plan.largest.width,
                            plan.largest.height, plan.largest.num_frames, plan.largest.num_inference_steps,
                            plan.guided ? fmt::format("{}", plan.largest.guidance_scale) : "off"));
  line("tokens", fmt::format("{} ({} x {} x {})", sizes_text(plan.tokens), plan.grid.frames, plan.grid.height,
                             plan.grid.width));
  line("heads", sizes_text(plan.heads));
  line("memory", fmt::format("{} a rank (text {}, denoise {}, decode {})", format_bytes(double(c.peak_bytes)),
                             format_bytes(double(c.text_bytes)), format_bytes(double(c.denoise_bytes)),
                             format_bytes(double(c.decode_bytes))));
  line("step",
       fmt::format("{:.4g} TFLOP a rank, {} sent", c.operations / 1e12, format_bytes(double(c.moved_bytes))));
  if (plan.mesh.ranks() > 1) line("speed-up", fmt::format("{:.2f} predicted", plan.predicted_speedup));
  for (const std::string& warning : plan.warnings) line("warning", warning);
  return text;
}

std::string describe_alternatives(const std::vector<RunPlan>& plans) {
  std::string text =
      "meshes that fit, best first:\n   dp cfg  cp  ulysses x ring   speed-up   memory a rank   sent a "
      "step\n";
  for (size_t i = 0; i < plans.size() && i < 12; ++i) {
    const RunPlan& p = plans[i];
    text += fmt::format("  {:>3} {:>3} {:>3}  {:>7} x {:<4} {:>10.2f} {:>15} {:>13}{}\n", p.mesh.dp,
                        p.mesh.cfg, p.mesh.cp, p.attention.ulysses, p.attention.ring, p.predicted_speedup,
                        format_bytes(double(p.costs.peak_bytes)), format_bytes(double(p.costs.moved_bytes)),
                        i == 0 ? "  recommended" : "");
  }
  return text;
}

}  // namespace frameshard
