#include "parallel/attention.h"
#include "parallel/collectives.h"

namespace frameshard {
namespace {

class UlyssesAttention final : public AttentionParallel {
 public:
  UlyssesAttention(Communicator& group, AttentionPtr inner, int group_index)
      : group_(group), inner_(std::move(inner)), group_index_(group_index) {}

  at::Tensor self_attention(Qkv mine, const Partition& tokens, const AttentionKernel& kernel) const override {
    const Partition rings = tokens.merged(group_.size());
    const Partition here = tokens.slice(group_index_ * group_.size(), group_.size());
    const Partition heads = Partition::even(mine.q.size(2), group_.size());
    // v may be a slice of a tensor that the others are not part of any more: a copy lets go of it.
    std::vector<at::Tensor> parts{std::move(mine.q), std::move(mine.k), mine.v.contiguous()};
    mine.v.reset();
    // One exchange for all three: [B, S_mine, H, D] -> [B, S_group, H_mine, D]
    auto qkv = redistribute(std::move(parts), 1, here, 2, heads, group_);
    // A rank beyond the number of heads has none of them: it only takes part in the exchanges.
    const at::Tensor attended =
        heads.size(group_.rank()) == 0
            ? qkv[0]
            : inner_->self_attention({std::move(qkv[0]), std::move(qkv[1]), std::move(qkv[2])}, rings,
                                     kernel);
    return redistribute(attended, 2, heads, 1, here, group_);  // -> [B, S_mine, H, D]
  }

 private:
  Communicator& group_;
  AttentionPtr inner_;
  int group_index_;
};

}  // namespace

AttentionPtr make_ulysses_attention(Communicator& group, AttentionPtr inner, int group_index) {
  return std::make_unique<UlyssesAttention>(group, std::move(inner), group_index);
}

}  // namespace frameshard
