#include "parallel/strategies.h"

#include "core/error.h"

namespace frameshard {

AttentionStrategy::AttentionStrategy(Communicator& cp, AttentionShape shape, ExchangeOverlap overlap,
                                     std::vector<double> speeds)
    : cp_(cp), shape_(shape), overlap_(overlap) {
  require(shape.ulysses * shape.ring == cp.size(), "ulysses {} x ring {} on {} ranks", shape.ulysses,
          shape.ring, cp.size());
  // A ring's own exchanges already run between the blocks, on the same links.
  if (shape.ring > 1) overlap_ = ExchangeOverlap::off;
  const int group_index = cp.rank() / shape.ulysses, place = cp.rank() % shape.ulysses;
  if (shape.ulysses > 1 && shape.ring > 1) {
    ulysses_ = cp.split(group_index, cp.rank(), fmt::format("{}.ulysses{}", cp.name(), group_index));
    ring_ = cp.split(place, cp.rank(), fmt::format("{}.ring{}", cp.name(), place));
  }
  set_speeds(std::move(speeds));
}

void AttentionStrategy::set_speeds(std::vector<double> speeds) {
  require(speeds.empty() || int(speeds.size()) == cp_.size(), "{} speeds for {} ranks", speeds.size(),
          cp_.size());
  speeds_ = std::move(speeds);
  AttentionPtr inner = shape_.ring > 1 ? make_ring_attention(ring_ ? *ring_ : cp_) : make_local_attention();
  attention_ = shape_.ulysses > 1 ? make_ulysses_attention(ulysses_ ? *ulysses_ : cp_, std::move(inner),
                                                           cp_.rank() / shape_.ulysses, overlap_, speeds_)
                                  : std::move(inner);
}

Partition AttentionStrategy::divide(int64_t tokens) const {
  return divide_tokens(tokens, speeds_, cp_.size());
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
