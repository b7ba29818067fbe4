#include "models/rebalance.h"

#include <numeric>

#include <fmt/ranges.h>

#include "core/log.h"
#include "parallel/comm/text.h"

namespace frameshard {

std::vector<double> parts_of_work(const DenoiseWork& work, AttentionShape shape,
                                  std::span<const double> speeds) {
  const ModelFacts& model = work.model;
  const Partition tokens = divide_tokens(work.tokens, speeds, int(speeds.size()));
  const Partition heads = divide_heads(model.heads, shape.ulysses, speeds);
  const Partition rows = tokens.merged(shape.ulysses);
  const double of_the_text = denoiser_operations(model, 0, 0, work.text_tokens);  // once a request
  std::vector<double> parts;
  for (int rank = 0; rank < tokens.parts(); ++rank) {
    const int64_t mine = tokens.size(rank);
    const double products = denoiser_operations(model, mine, 0, work.text_tokens) - of_the_text;
    // Scores and their products with the values: of the ring's queries, over all keys, for the place's heads.
    const double attention = 4.0 * double(rows.size(rank / shape.ulysses)) * double(work.tokens) *
                             double(heads.size(rank % shape.ulysses) * model.head_dim * model.layers);
    parts.push_back(products + attention);
  }
  const double sum = std::accumulate(parts.begin(), parts.end(), 0.0);
  for (double& part : parts) part /= sum;
  return parts;
}

Rebalance::Rebalance(ProcessMesh& mesh, AttentionStrategy& attention, const at::Device& device,
                     DenoiseWork work)
    : mesh_(mesh), attention_(attention), work_(std::move(work)) {
  const auto cp = size_t(mesh.cp().size());
  std::vector<double> mine{double(device.is_cpu() && cp > 1)};
  for (size_t i = 0; i < cp; ++i) mine.push_back(attention.speeds().empty() ? 1 : attention.speeds()[i]);
  const auto all = gather_numbers(mesh.replica(), mine);
  enabled_ = std::all_of(all.begin(), all.end(), [](const auto& rank) { return rank[0] == 1; });
  for (size_t first = 0; first < all.size(); first += cp) {
    watches_.emplace_back(std::vector<double>(all[first].begin() + 1, all[first].end()));
  }
}

void Rebalance::begin_step() {
  if (!enabled_) return;
  waited_before_ = waited();
  begin_ = Clock::now();
}

bool Rebalance::end_step(int64_t step) {
  if (!enabled_) return false;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  const double computing = seconds - (waited() - waited_before_);
  if (!std::exchange(warm_, true)) return false;
  return note(step, std::max(computing, 0.0));
}

bool Rebalance::note(int64_t step, double seconds) {
  if (!enabled_) return false;
  const std::vector<double> former = shares();
  std::vector<double> all;
  for (const auto& rank : gather_numbers(mesh_.replica(), {seconds})) all.push_back(rank[0]);
  const auto cp = size_t(mesh_.cp().size());
  bool changed = false;
  for (size_t group = 0; group < watches_.size(); ++group) {
    changed |= note_group(group, std::span(all).subspan(group * cp, cp));
  }
  if (!changed) return false;
  record(step, former);
  warm_ = false;
  return true;
}

// Whether its ranks have other work from here on.
bool Rebalance::note_group(size_t group, std::span<const double> seconds) {
  if (!work_.passes.empty() && work_.passes[group] == 0) return false;  // it only waits
  SpeedWatch& watch = watches_[group];
  const auto before = parts_of_work(work_, attention_.shape(), watch.speeds());
  if (!watch.note(seconds, before)) return false;
  if (parts_of_work(work_, attention_.shape(), watch.speeds()) == before) return false;
  if (int(group) == mesh_.coord().cfg) attention_.set_speeds(watch.speeds());
  return true;
}

std::vector<double> Rebalance::shares() const {
  std::vector<double> shares;
  for (const SpeedWatch& watch : watches_) {
    const auto& speeds = watch.speeds();
    const double sum = std::accumulate(speeds.begin(), speeds.end(), 0.0);
    for (double speed : speeds) shares.push_back(speed / sum);
  }
  return shares;
}

void Rebalance::record(int64_t step, const std::vector<double>& former) {
  changes_.push_back({step, shares()});
  if (mesh_.replica().rank() != 0) return;
  std::vector<std::string> words;
  const int first = rank_of({.dp = mesh_.coord().dp}, mesh_.shape());
  for (size_t i = 0; i < former.size(); ++i) {
    words.push_back(
        fmt::format("rank {} {:.2f} -> {:.2f}", first + int(i), former[i], changes_.back().speeds[i]));
  }
  log::info("rebalanced after step {}: {}", step, fmt::join(words, ", "));
}

}  // namespace frameshard
