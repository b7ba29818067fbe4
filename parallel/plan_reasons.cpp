// Why this split, and why not another, in words.
#include "core/host.h"
#include "parallel/plan_costs.h"

namespace frameshard {
namespace {

// What one rank of a pair sends in a step when the two share the sequence, or the guidance branches.
struct PairBytes {
  int64_t sequence, guidance;
};
PairBytes pair_bytes(const VideoClass& video, const ModelFacts& model, const PlanMachine& machine) {
  auto bytes = [&](const Split& split) { return rank_costs(split, video, model, machine).moved_bytes; };
  return {.sequence = bytes({.mesh = {.cp = 2}, .attention = {.ulysses = 2}}),
          .guidance = bytes({.mesh = {.cfg = 2}, .attention = {}})};
}

std::string guidance_reason(const Split& split, const Workload& work, const ModelFacts& model,
                            const PlanMachine& machine) {
  const int64_t passes = work.largest.passes();
  if (work.least_passes == 1)
    return "guidance is off, at least for one video: there is one branch to compute";
  if (passes > 2 && split.mesh.cfg > 1) {
    return fmt::format("a step has {} passes of the denoiser, which share nothing: {} at the same time",
                       passes, split.mesh.cfg);
  }
  if (passes > 2) return fmt::format("each rank computes all {} passes of a step", passes);
  if (split.mesh.cfg == 1 && machine.world % 2 != 0) {
    return fmt::format("{} ranks have no factor of 2 for guidance: each computes both branches",
                       machine.world);
  }
  if (split.mesh.cfg == 1) return "each rank computes both guidance branches, and replicas exchange nothing";
  const PairBytes pair = pair_bytes(work.largest, model, machine);
  return fmt::format(
      "guidance takes the first factor of 2: a pair of ranks sends {} a step each for it, and {} to share "
      "the sequence",
      format_bytes(double(pair.guidance)), format_bytes(double(pair.sequence)));
}

std::string sequence_reason(const Split& split, const PlanMachine& machine) {
  const int cp = split.mesh.cp, ulysses = split.attention.ulysses, ring = split.attention.ring;
  const bool spans = spans_nodes(cp, machine);
  const std::string place = machine.nodes() == 1 ? "" : spans ? " of several nodes" : " inside a node";
  std::string how = fmt::format("all-to-all over {}", ulysses);
  if (ring > 1) {
    const std::string rings = fmt::format("a ring of {}{}", ring, spans ? " between nodes" : "");
    how = ulysses > 1 ? how + ", " + rings : rings;
  }
  return fmt::format("the sequence is shared by {} ranks{}: {}", cp, place, how);
}

std::string replica_reason(const Split& split, const Workload& work) {
  const int64_t busy = std::min<int64_t>(split.mesh.dp, work.videos);
  if (split.mesh.dp == 1) return fmt::format("one replica makes the {} videos one by one", work.videos);
  return fmt::format("{} replicas exchange nothing and make {} video{} in {} round{}", split.mesh.dp,
                     work.videos, work.videos == 1 ? "" : "s", (work.videos + busy - 1) / busy,
                     work.videos <= busy ? "" : "s");
}

}  // namespace

std::string why_not(const MeshChoice& best, const MeshChoice& other, const PlanMachine& machine,
                    const Workload& work) {
  const Split &a = best.split, &b = other.split;
  auto ring_between_nodes = [&](const Split& s) {
    return s.attention.ring > 1 && spans_nodes(s.mesh.cp, machine);
  };
  const bool same_mesh = a.mesh.dp == b.mesh.dp && a.mesh.cfg == b.mesh.cfg;
  if (same_mesh && a.attention.ulysses == b.attention.ulysses) return "";
  if (other.idle > best.idle) {
    return fmt::format("{} idle replica{}", other.idle, other.idle == 1 ? "" : "s");
  }
  if (!other.fits && best.fits) return "does not fit";
  if (same_mesh) return b.attention.ring > a.attention.ring ? "longer ring" : "uneven heads";
  const int64_t waiting = work.videos % b.mesh.dp;  // in the last round
  if (b.mesh.dp > a.mesh.dp) {
    return waiting != 0 && other.predicted.total_seconds > best.predicted.total_seconds
               ? "idle in the last round"
               : "first video later";
  }
  if (ring_between_nodes(b) && !ring_between_nodes(a)) return "ring between nodes";
  if (b.mesh.cfg < a.mesh.cfg)
    return work.largest.passes() > 2 ? "fewer passes at once" : "guidance not shared";
  if (work.largest.passes() % b.mesh.cfg != 0) return "passes do not divide";
  if (ring_between_nodes(b) && b.attention.ring > a.attention.ring) return "longer ring between nodes";
  return "more exchange";
}

std::vector<std::string> reasons_for(const MeshChoice& choice, const Workload& work, const ModelFacts& model,
                                     const PlanMachine& machine) {
  std::vector<std::string> reasons;
  if (machine.world == 1) return reasons;
  reasons.push_back(guidance_reason(choice.split, work, model, machine));
  if (choice.split.mesh.cp > 1) reasons.push_back(sequence_reason(choice.split, machine));
  if (work.videos > 1) reasons.push_back(replica_reason(choice.split, work));
  return reasons;
}

}  // namespace frameshard
