// Bytes that each rank sends: the strategies' exchanges, counted without making them.
#include <algorithm>

#include "parallel/plan_costs.h"
#include "parallel/work_units.h"

namespace frameshard {
namespace {

// Partition::even without its list of sizes.
struct EvenPieces {
  int64_t total, parts;
  int64_t begin(int64_t i) const { return total / parts * i + std::min(i, total % parts); }
  int64_t between(int64_t i, int64_t j) const { return begin(j) - begin(i); }
  int64_t size(int64_t i) const { return between(i, i + 1); }
};

}  // namespace

std::vector<int64_t> pass_counts(const Split& split, const VideoClass& video, int replica) {
  const int cfg = split.mesh.cfg;
  if (split.speeds.empty() || cfg == 1) {
    const EvenPieces pieces{video.passes(), cfg};
    std::vector<int64_t> counts;
    for (int place = 0; place < cfg; ++place) counts.push_back(pieces.size(place));
    return counts;
  }
  const std::vector<double> costs(size_t(video.passes()), 1.0);
  std::vector<int64_t> counts;
  for (const auto& passes : schedule(costs, split.group_speeds(replica)))
    counts.push_back(int64_t(passes.size()));
  return counts;
}

int64_t passes_a_rank(const Split& split, const VideoClass& video) {
  if (split.speeds.empty()) return (video.passes() + split.mesh.cfg - 1) / split.mesh.cfg;
  int64_t most = 0;
  for (int replica = 0; replica < split.mesh.dp; ++replica) {
    const auto counts = pass_counts(split, video, replica);
    most = std::max(most, *std::max_element(counts.begin(), counts.end()));
  }
  return most;
}

namespace {

// The same for pieces of any sizes.
struct Pieces {
  int64_t mine, my_heads, my_rows, next_rows;
};

Pieces pieces_of(const Split& split, const VideoClass& video, const ModelFacts& model, int rank) {
  const int cp = split.mesh.cp, ulysses = split.attention.ulysses, ring = split.attention.ring;
  const int place = rank % cp, group = place / ulysses;
  if (split.speeds.empty()) {
    const EvenPieces tokens{video.tokens(), cp}, heads{model.heads, ulysses};
    auto of_group = [&](int64_t g) { return tokens.between(g * ulysses, (g + 1) * ulysses); };
    return {tokens.size(place), heads.size(place % ulysses), of_group(group), of_group((group + 1) % ring)};
  }
  const Partition tokens = tokens_of(split, video, rank / cp), groups = tokens.merged(ulysses);
  return {tokens.size(place), heads_of(split, model, rank / cp).size(place % ulysses), groups.size(group),
          groups.size((group + 1) % ring)};
}

int64_t passes_of(const Split& split, const VideoClass& video, int rank) {
  const int cp = split.mesh.cp, cfg = split.mesh.cfg;
  return pass_counts(split, video, rank / (cp * cfg))[size_t(rank / cp % cfg)];
}

}  // namespace

StepBytes step_bytes(const Split& split, const VideoClass& video, const ModelFacts& model, int rank) {
  const int64_t cp = split.mesh.cp, ulysses = split.attention.ulysses, ring = split.attention.ring;
  const auto [mine, my_heads, my_rows, next_rows] = pieces_of(split, video, model, rank);
  StepBytes bytes;
  if (ulysses > 1) {
    // q, k and v of my tokens to the ranks of the other heads; then my heads' output to the other tokens'.
    bytes.exchange = 3 * mine * (model.heads - my_heads) + my_heads * (my_rows - mine);
  }
  if (ring > 1) {
    // In ring - 1 hops every block of keys and values but one: the next group's comes last and stays.
    bytes.ring = 2 * my_heads * (video.tokens() - next_rows);
  }
  const int64_t head_bytes = model.head_dim * model.exchanged_bytes();
  bytes.exchange *= head_bytes, bytes.ring *= head_bytes;
  bytes.gather = mine * model.patch() * (cp - 1) * model.exchanged_bytes();
  bytes.guidance = passes_of(split, video, rank) * video.tokens() * model.patch() * (split.mesh.cfg - 1) *
                   model.exchanged_bytes();
  return bytes;
}

SentBytes sent_bytes(const Split& split, const VideoClass& video, const ModelFacts& model, int rank) {
  const StepBytes step = step_bytes(split, video, model, rank);
  const int64_t forward = model.layers * (step.exchange + step.ring) + step.gather;
  return {.cp = video.steps * passes_of(split, video, rank) * forward, .cfg = video.steps * step.guidance};
}

}  // namespace frameshard
