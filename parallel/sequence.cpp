#include "parallel/sequence.h"

#include "parallel/collectives.h"

namespace frameshard {

at::Tensor ParallelSequence::enter(const at::Tensor& whole) const {
  return shard(whole, 1, tokens_, cp_);
}

at::Tensor ParallelSequence::leave(const at::Tensor& mine) const {
  return unshard(mine, 1, tokens_, cp_, Downstream::replicated);
}

at::Tensor ParallelSequence::positions(const at::Tensor& table) const {
  return table.narrow(0, tokens_.begin(cp_.rank()), tokens_.size(cp_.rank()));
}

}  // namespace frameshard
