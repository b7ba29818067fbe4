// Which splits of the ranks a configuration allows, and what to say where it allows none.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "parallel/plan_costs.h"

namespace frameshard {
namespace {

using Size = AutoOr<int64_t>;

std::vector<int> divisors(int number) {
  std::vector<int> small, large;
  for (int i = 1; int64_t(i) * i <= number; ++i) {
    if (number % i != 0) continue;
    small.push_back(i);
    if (i != number / i) large.push_back(number / i);
  }
  small.insert(small.end(), large.rbegin(), large.rend());
  return small;
}

bool allows(const Size& wanted, int64_t size) {
  return wanted.is_auto() || *wanted.value == size;
}

// Every mesh of `world` ranks, replicas first; with no more cfg groups than a step has passes.
std::vector<MeshShape> factorings(int world, int64_t passes) {
  std::vector<MeshShape> meshes;
  for (const int dp : divisors(world)) {
    for (const int cfg : divisors(world / dp)) {
      if (cfg <= passes) meshes.push_back({dp, cfg, world / dp / cfg});
    }
  }
  return meshes;
}

bool allows(const DiffusionConfig& wanted, MeshShape mesh) {
  return allows(wanted.dp_size, mesh.dp) && allows(wanted.cfg_size, mesh.cfg) &&
         allows(wanted.cp_size, mesh.cp);
}

// ---- refusals ----

std::string word(const Size& size) {
  return size.is_auto() ? "auto" : std::to_string(*size.value);
}

std::string ranks_text(int64_t ranks) {
  return fmt::format("{} rank{}", ranks, ranks == 1 ? "" : "s");
}

// The first of them, for an error message.
std::string list_text(const std::vector<MeshShape>& meshes) {
  std::vector<std::string> texts;
  for (const MeshShape& mesh : meshes) {
    texts.push_back(fmt::format("dp {} x cfg {} x cp {}", mesh.dp, mesh.cfg, mesh.cp));
  }
  if (texts.size() > 8) texts.resize(8), texts.push_back("...");
  return fmt::format("{}", fmt::join(texts, "; "));
}

// How far a mesh is from the sizes that were asked for: how many it changes, and then by which factors.
std::pair<int, double> distance(const DiffusionConfig& wanted, MeshShape mesh) {
  std::pair<int, double> result{0, 0.0};
  auto add = [&](const Size& size, int got) {
    if (allows(size, got)) return;
    ++result.first;
    result.second += std::abs(std::log(double(got) / double(*size.value)));
  };
  add(wanted.dp_size, mesh.dp), add(wanted.cfg_size, mesh.cfg), add(wanted.cp_size, mesh.cp);
  return result;
}

// "; the nearest that fits: cfg 2 x cp 4 (set infer.diffusion.cp_size=4)", or nothing.
std::string nearest_text(const DiffusionConfig& wanted, int world, const Workload& work) {
  std::vector<MeshShape> meshes = factorings(world, work.least_passes);
  std::erase_if(meshes, [&](auto& mesh) { return mesh.cp > work.least_tokens || mesh.dp > work.videos; });
  if (meshes.empty()) return "";
  const MeshShape mesh = *std::min_element(meshes.begin(), meshes.end(), [&](auto& a, auto& b) {
    return std::tuple(distance(wanted, a), -a.cfg, a.dp) < std::tuple(distance(wanted, b), -b.cfg, b.dp);
  });
  std::vector<std::string> changes;
  auto change = [&](const char* key, const Size& size, int got) {
    if (!allows(size, got)) changes.push_back(fmt::format("infer.diffusion.{}={}", key, got));
  };
  change("dp_size", wanted.dp_size, mesh.dp), change("cfg_size", wanted.cfg_size, mesh.cfg),
      change("cp_size", wanted.cp_size, mesh.cp);
  return fmt::format("; the nearest that fits: {}cfg {} x cp {} (set {})",
                     mesh.dp > 1 ? fmt::format("dp {} x ", mesh.dp) : "", mesh.cfg, mesh.cp,
                     fmt::join(changes, " "));
}

[[noreturn]] void refuse_product(const DiffusionConfig& wanted, int world, const Workload& work) {
  const int64_t dp = wanted.dp_size.value.value_or(1), cp = wanted.cp_size.value.value_or(1);
  const bool both_fit = work.least_passes > 1 && world >= 2 * dp * cp;
  const int64_t cfg = wanted.cfg_size.value.value_or(both_fit ? 2 : 1), ranks = dp * cfg * cp;
  const std::string nearest = nearest_text(wanted, world, work);
  fail(ExitCode::config, "dp*cfg*cp = {}*{}*{} = {} but {} {} started{}{} start {}; sizes that fit {}: {}",
       dp, cfg, cp, ranks, ranks_text(world), world == 1 ? "was" : "were", nearest,
       nearest.empty() ? ";" : ", or", ranks_text(ranks), world,
       list_text(factorings(world, work.least_passes)));
}

[[noreturn]] void refuse_parts(const DiffusionConfig& wanted, int world, int64_t cp, const Workload& work) {
  // The largest smaller number of ranks that has a mesh, where this number has none.
  int64_t fewer = std::min<int64_t>(world - 1, work.least_tokens * work.videos * work.least_passes);
  while (fewer > 1 && nearest_text({}, int(fewer), work).empty()) --fewer;
  std::string nearest = nearest_text(wanted, world, work);
  if (nearest.empty()) nearest = fmt::format("; the nearest number of ranks that fits is {}", fewer);
  fail(ExitCode::config,
       "cp_size {} is more than the {} tokens of the smallest request; use at most {} ranks for its "
       "sequence{}",
       cp, work.least_tokens, work.least_tokens, nearest);
}

[[noreturn]] void refuse_attention(const AttentionConfig& wanted, int cp) {
  auto far = [](const Size& size, int got) {
    return size.is_auto() ? 0.0 : std::abs(std::log(double(got) / double(*size.value)));
  };
  const auto sizes = divisors(cp);
  const int ulysses = *std::min_element(sizes.begin(), sizes.end(), [&](int a, int b) {
    return far(wanted.ulysses_size, a) + far(wanted.ring_size, cp / a) <
           far(wanted.ulysses_size, b) + far(wanted.ring_size, cp / b);
  });
  fail(ExitCode::config,
       "ulysses_size {} x ring_size {} is not cp_size {}; leave one of them at auto; the nearest that fits: "
       "infer.attention.ulysses_size={} infer.attention.ring_size={}",
       word(wanted.ulysses_size), word(wanted.ring_size), cp, ulysses, cp / ulysses);
}

// ---- what is allowed ----

// All-to-all is chosen inside a node and over no more ranks than there are heads: between nodes it sends many
// small messages to everyone, where a ring sends large ones to a neighbour. Sizes that are asked for are
// kept.
std::vector<AttentionShape> attention_shapes(const AttentionConfig& wanted, int cp, int64_t heads,
                                             const PlanMachine& machine) {
  const bool free = wanted.ulysses_size.is_auto() && wanted.ring_size.is_auto();
  std::vector<AttentionShape> shapes;
  for (const int ulysses : divisors(cp)) {
    if (!allows(wanted.ulysses_size, ulysses) || !allows(wanted.ring_size, cp / ulysses)) continue;
    if (free && (ulysses > heads || spans_nodes(ulysses, machine))) continue;
    shapes.push_back({.ulysses = ulysses, .ring = cp / ulysses});
  }
  return shapes;
}

// Whether some replica has nobody to compute it.
bool without_speed(const Split& split) {
  for (int replica = 0; replica < split.mesh.dp && !split.speeds.empty(); ++replica) {
    const auto speeds = split.group_speeds(replica);
    if (std::all_of(speeds.begin(), speeds.end(), [](double speed) { return speed == 0; })) return true;
  }
  return false;
}

}  // namespace

bool spans_nodes(int size, const PlanMachine& machine) {
  return machine.nodes() > 1 && machine.node_ranks() % size != 0;
}

std::vector<double> Split::speeds_of(int group) const {
  if (speeds.empty()) return {};
  const auto first = speeds.begin() + int64_t(group) * mesh.cp;
  return {first, first + mesh.cp};
}

std::vector<double> Split::group_speeds(int replica) const {
  if (speeds.empty()) return {};
  std::vector<double> sums;
  for (int place = 0; place < mesh.cfg; ++place) {
    const auto ranks = speeds_of(replica * mesh.cfg + place);
    sums.push_back(std::accumulate(ranks.begin(), ranks.end(), 0.0));
  }
  return sums;
}

std::vector<Split> legal_splits(const Sizes& wanted, const Workload& work, const ModelFacts& model,
                                const PlanMachine& machine) {
  const int world = machine.world;
  if (const auto& cfg = wanted.mesh.cfg_size.value; cfg && *cfg > work.least_passes) {
    fail(ExitCode::config,
         "cfg_size {} is more than the {} pass{} of a step of a request; set infer.diffusion.cfg_size={} or "
         "less",
         *cfg, work.least_passes, work.least_passes == 1 ? "" : "es", work.least_passes);
  }
  std::vector<MeshShape> meshes = factorings(world, work.least_passes);
  std::erase_if(meshes, [&](auto& mesh) { return !allows(wanted.mesh, mesh); });
  auto busy = [&](MeshShape mesh) { return mesh.dp <= work.videos || !wanted.mesh.dp_size.is_auto(); };
  if (std::none_of(meshes.begin(), meshes.end(), busy)) refuse_product(wanted.mesh, world, work);

  const MeshShape first = *std::find_if(meshes.begin(), meshes.end(), busy);
  std::erase_if(meshes, [&](auto& mesh) { return mesh.cp > work.least_tokens; });
  if (std::none_of(meshes.begin(), meshes.end(), busy)) refuse_parts(wanted.mesh, world, first.cp, work);

  std::vector<Split> splits;
  bool any_busy = false, weightless = false;
  for (const MeshShape& mesh : meshes) {
    for (const AttentionShape& shape : attention_shapes(wanted.attention, mesh.cp, model.heads, machine)) {
      Split split{mesh, shape, machine.speeds};
      if (without_speed(split)) {
        weightless = true;
        continue;
      }
      splits.push_back(std::move(split));
      any_busy |= busy(mesh);
    }
  }
  if (splits.empty() && weightless) {
    fail(ExitCode::config,
         "devices: with these weights, all ranks of a replica have weight 0; give one of them more, or leave "
         "infer.diffusion at auto");
  }
  if (!any_busy) refuse_attention(wanted.attention, std::find_if(meshes.begin(), meshes.end(), busy)->cp);
  return splits;
}

}  // namespace frameshard
