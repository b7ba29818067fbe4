#include "parallel/sequence.h"

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "parallel/collectives.h"

namespace frameshard {
namespace {

// A kernel that computes in this rank's type what comes and goes in the one that is exchanged.
class TypedKernel final : public AttentionKernel {
 public:
  TypedKernel(const AttentionKernel& kernel, at::ScalarType type) : kernel_(kernel), type_(type) {}

  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const override {
    return kernel_.attend(q.to(type_), k.to(type_), v.to(type_)).to(q.scalar_type());
  }
  std::pair<at::Tensor, at::Tensor> attend_with_sums(const at::Tensor& q, const at::Tensor& k,
                                                     const at::Tensor& v) const override {
    return kernel_.attend_with_sums(q.to(type_), k.to(type_), v.to(type_));
  }
  Gradients backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                     const at::Tensor&, const at::Tensor&) const override {
    fail(ExitCode::internal, "ranks of different types compute no gradients");
  }

 private:
  const AttentionKernel& kernel_;
  at::ScalarType type_;
};

}  // namespace

at::Tensor ParallelSequence::enter(const at::Tensor& whole) const {
  return shard(whole, 1, tokens_, cp_);
}

at::Tensor ParallelSequence::leave(const at::Tensor& mine) const {
  const at::ScalarType type = mine.scalar_type(), wire = cp_.size() == 1 ? type : wire_.value_or(type);
  return unshard(mine.to(wire), 1, tokens_, cp_, Downstream::replicated);
}

at::Tensor ParallelSequence::self_attention(Qkv mine, const AttentionKernel& kernel) const {
  const at::ScalarType type = mine.q.scalar_type();
  if (cp_.size() == 1 || wire_.value_or(type) == type) {
    return attention_.self_attention(std::move(mine), tokens_, kernel);
  }
  require(!c10::GradMode::is_enabled(), "ranks of different types compute no gradients");
  for (at::Tensor* part : {&mine.q, &mine.k, &mine.v}) *part = part->to(*wire_);
  return attention_.self_attention(std::move(mine), tokens_, TypedKernel(kernel, type)).to(type);
}

at::Tensor ParallelSequence::positions(const at::Tensor& table) const {
  return table.narrow(0, tokens_.begin(cp_.rank()), tokens_.size(cp_.rank()));
}

}  // namespace frameshard
