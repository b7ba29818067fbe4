#include "parallel/strategies.h"

#include "core/error.h"

namespace frameshard {

AttentionStrategy::AttentionStrategy(Communicator& cp, AttentionShape shape, ExchangeOverlap overlap,
                                     std::vector<double> speeds)
    : ranks_(cp.size()), speeds_(std::move(speeds)) {
  require(speeds_.empty() || int(speeds_.size()) == cp.size(), "{} speeds for {} ranks", speeds_.size(),
          cp.size());
  require(shape.ulysses * shape.ring == cp.size(), "ulysses {} x ring {} on {} ranks", shape.ulysses,
          shape.ring, cp.size());
  const int group_index = cp.rank() / shape.ulysses, place = cp.rank() % shape.ulysses;
  Communicator* ulysses = &cp;
  Communicator* ring = &cp;
  if (shape.ulysses > 1 && shape.ring > 1) {
    ulysses_ = cp.split(group_index, cp.rank(), fmt::format("{}.ulysses{}", cp.name(), group_index));
    ring_ = cp.split(place, cp.rank(), fmt::format("{}.ring{}", cp.name(), place));
    ulysses = ulysses_.get(), ring = ring_.get();
  }
  AttentionPtr inner = shape.ring > 1 ? make_ring_attention(*ring) : make_local_attention();
  // A ring's own exchanges already run between the blocks, on the same links.
  if (shape.ring > 1) overlap = ExchangeOverlap::off;
  attention_ = shape.ulysses > 1
                   ? make_ulysses_attention(*ulysses, std::move(inner), group_index, overlap, speeds_)
                   : std::move(inner);
}

Partition AttentionStrategy::divide(int64_t tokens) const {
  return divide_tokens(tokens, speeds_, ranks_);
}

int64_t AttentionStrategy::bytes_sent() const {
  return (ulysses_ ? ulysses_->stats().bytes_sent : 0) + (ring_ ? ring_->stats().bytes_sent : 0);
}

double AttentionStrategy::seconds() const {
  return (ulysses_ ? ulysses_->stats().seconds : 0) + (ring_ ? ring_->stats().seconds : 0);
}

Moved moved_by(ProcessMesh& mesh, const AttentionStrategy& attention) {
  const CommStats &cp = mesh.cp().stats(), &cfg = mesh.cfg().stats();
  return {cp.bytes_sent + attention.bytes_sent(), cfg.bytes_sent,
          cp.seconds + cfg.seconds + attention.seconds()};
}

}  // namespace frameshard
