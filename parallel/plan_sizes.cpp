// The sizes of the mesh and of the attention strategy.
#include <algorithm>

#include "core/error.h"
#include "parallel/plan.h"

namespace frameshard {
namespace {

std::string word(const AutoOr<int64_t>& size) {
  return size.is_auto() ? "auto" : std::to_string(*size.value);
}

std::string mesh_text(MeshShape mesh) {
  return fmt::format("dp {} x cfg {} x cp {}", mesh.dp, mesh.cfg, mesh.cp);
}

// The first factorings of `world`, for an error message.
std::string factorings(int world, bool guided) {
  std::vector<std::string> texts;
  for (int dp = 1; dp <= world; ++dp) {
    for (int cfg = 1; cfg <= (guided ? 2 : 1); ++cfg) {
      if (world % (dp * cfg) == 0) texts.push_back(mesh_text({dp, cfg, world / (dp * cfg)}));
    }
  }
  if (texts.size() > 8) texts.resize(8), texts.push_back("...");
  return fmt::format("{}", fmt::join(texts, "; "));
}

}  // namespace

int64_t video_count(const RunConfig& config) {
  int64_t videos = 0;
  for (const RequestConfig& request : all_requests(config)) videos += request.batch_size;
  return videos;
}

MeshShape solve_mesh(const RunConfig& config, int world, bool guided, int64_t tokens) {
  const DiffusionConfig& wanted = config.infer.diffusion;
  int64_t dp = wanted.dp_size.value.value_or(1), cfg = wanted.cfg_size.value.value_or(1),
          cp = wanted.cp_size.value.value_or(1);
  auto misfit = [&] {
    fail(ExitCode::config,
         "dp*cfg*cp = {}*{}*{} = {} but {} rank{} started; start {} rank{}, or set infer.diffusion.cp_size; "
         "sizes that fit "
         "{}: {}",
         dp, cfg, cp, dp * cfg * cp, world, world == 1 ? " was" : "s were", dp * cfg * cp,
         dp * cfg * cp == 1 ? "" : "s", world, factorings(world, guided));
  };
  if (world % (dp * cfg * cp) != 0) misfit();
  int64_t rest = world / (dp * cfg * cp);
  // Guidance takes the first factor of 2: it exchanges least. The sequence takes the rest; replicas, which
  // need requests of their own, take what fixed sizes leave.
  if (wanted.cfg_size.is_auto() && guided && rest % 2 == 0) cfg = 2, rest /= 2;
  if (wanted.cp_size.is_auto()) cp *= rest, rest = 1;
  if (wanted.dp_size.is_auto() && rest <= video_count(config)) dp *= rest, rest = 1;
  if (rest != 1) misfit();
  if (cp > tokens) {
    fail(ExitCode::config,
         "cp_size {} is more than the {} tokens of the smallest request; use at most {} ranks for its "
         "sequence",
         cp, tokens, tokens);
  }
  return {.dp = int(dp), .cfg = int(cfg), .cp = int(cp)};
}

AttentionShape solve_attention(const AttentionConfig& wanted, int cp, int64_t heads, int ranks_per_node) {
  const auto &ulysses = wanted.ulysses_size, &ring = wanted.ring_size;
  auto misfit = [&] {
    fail(ExitCode::config, "ulysses_size {} x ring_size {} is not cp_size {}; leave one of them at auto",
         word(ulysses), word(ring), cp);
  };
  if (!ulysses.is_auto() && !ring.is_auto()) {
    if (*ulysses.value * *ring.value != cp) misfit();
    return {.ulysses = int(*ulysses.value), .ring = int(*ring.value)};
  }
  if (!ulysses.is_auto() || !ring.is_auto()) {
    const int64_t given = ulysses.is_auto() ? *ring.value : *ulysses.value;
    if (cp % given != 0) misfit();
    const int64_t other = cp / given;
    return ulysses.is_auto() ? AttentionShape{int(other), int(given)}
                             : AttentionShape{int(given), int(other)};
  }
  // All-to-all inside a node and over no more ranks than there are heads; a ring between such groups.
  int best = 1;
  for (int size = 1; size <= std::min<int64_t>(cp, heads); ++size) {
    const bool inside_node = ranks_per_node == 0 || ranks_per_node % size == 0;
    if (cp % size == 0 && inside_node) best = size;
  }
  return {.ulysses = best, .ring = cp / best};
}

}  // namespace frameshard
