#include <optional>

#include <torch/csrc/autograd/custom_function.h>

#include "parallel/attention.h"

namespace frameshard {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// A hop: hands `mine` to the next rank and takes what the previous rank hands over, while this rank computes.
class Hop {
 public:
  Hop(Communicator& group, const at::Tensor& mine, std::vector<int64_t> incoming_shape)
      : shape_(std::move(incoming_shape)) {
    const auto next = size_t((group.rank() + 1) % group.size());
    const auto previous = size_t((group.rank() + group.size() - 1) % group.size());
    Counts send(size_t(group.size()), 0), recv(size_t(group.size()), 0);
    send[next] = mine.numel();
    recv[previous] = c10::multiply_integers(shape_);
    pending_ = group.start_all_to_all(mine.contiguous().view({-1}), send, recv);
  }
  at::Tensor arrived() { return pending_->wait().view(shape_); }

 private:
  std::vector<int64_t> shape_;
  std::unique_ptr<PendingExchange> pending_;
};

// The rank whose block is here after `step` hops.
int source_of(const Communicator& group, int step) {
  return (group.rank() - step + group.size()) % group.size();
}

std::vector<int64_t> block_shape(at::IntArrayRef stacked, int64_t tokens) {
  return {stacked[0], stacked[1], tokens, stacked[3], stacked[4]};  // [2, B, S_block, H, D]
}

// Softmax over blocks, one at a time: outputs weighted by their share of the sum of exponentials.
class OnlineSoftmax {
 public:
  void add(const at::Tensor& output, const at::Tensor& sums) {
    if (!output_.defined()) {
      output_ = output.to(at::kFloat), sums_ = sums;
      return;
    }
    const at::Tensor total = at::logaddexp(sums_, sums);
    auto share = [&](const at::Tensor& part) { return (part - total).exp_().transpose(1, 2).unsqueeze(-1); };
    output_.mul_(share(sums_)).addcmul_(output, share(sums));
    sums_ = total;
  }
  // A rank without queries has added nothing.
  void add_nothing(const at::Tensor& q) {
    output_ = q.to(at::kFloat), sums_ = at::empty({q.size(0), q.size(2), q.size(1)}, output_.options());
  }
  bool empty() const { return !output_.defined(); }
  const at::Tensor& output() const { return output_; }  // [B, S, H, D], float32
  const at::Tensor& sums() const { return sums_; }      // [B, H, S], float32

 private:
  at::Tensor output_, sums_;
};

struct Ring : Function<Ring> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const Partition& tokens, Communicator* group,
                            const AttentionKernel* kernel) {
    const at::Tensor mine = at::stack({k, v});
    at::Tensor block = mine;
    OnlineSoftmax softmax;
    for (int step = 0; step < group->size(); ++step) {
      // On its way while this block is attended: a rank waits for the next block alone, not for the ranks
      // that hand it on, which take longer over theirs where pieces are unequal.
      std::optional<Hop> next;
      if (step + 1 < group->size()) {
        next.emplace(*group, block, block_shape(mine.sizes(), tokens.size(source_of(*group, step + 1))));
      }
      if (block.numel() > 0 && q.numel() > 0) {
        const auto [output, sums] = kernel->attend_with_sums(q, block[0], block[1]);
        softmax.add(output, sums);
      }
      if (next) block = next->arrived();
    }
    if (softmax.empty()) softmax.add_nothing(q);
    context->save_for_backward({q, mine, softmax.output(), softmax.sums()});
    context->saved_data["tokens"] = tokens.sizes();
    context->saved_data["group"] = int64_t(reinterpret_cast<intptr_t>(group));
    context->saved_data["kernel"] = int64_t(reinterpret_cast<intptr_t>(kernel));
    return softmax.output().to(q.scalar_type());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &mine = saved[1], &sums = saved[3];
    const at::Tensor output = saved[2].to(q.scalar_type());
    const auto tokens = Partition::of_sizes(context->saved_data["tokens"].toIntVector());
    auto& group = *reinterpret_cast<Communicator*>(context->saved_data["group"].toInt());
    auto& kernel = *reinterpret_cast<const AttentionKernel*>(context->saved_data["kernel"].toInt());
    at::Tensor q_gradient = at::zeros_like(q, q.options().dtype(at::kFloat));
    at::Tensor block = mine, block_gradient = at::zeros_like(mine, q_gradient.options());
    std::optional<Hop> coming;  // the gradient of `block`, as the ranks before this one have summed it
    for (int step = 0; step < group.size(); ++step) {
      const auto shape = block_shape(mine.sizes(), tokens.size(source_of(group, step + 1)));
      std::optional<Hop> next;
      if (step + 1 < group.size()) next.emplace(group, block, shape);
      AttentionKernel::Gradients part;
      const bool attends = block.numel() > 0 && q.numel() > 0;
      if (attends) part = kernel.backward(gradients[0].contiguous(), q, block[0], block[1], output, sums);
      if (coming) block_gradient = coming->arrived();
      if (attends) {
        q_gradient += part.q;
        block_gradient[0] += part.k, block_gradient[1] += part.v;
      }
      if (next) block = next->arrived();
      // A block's gradient travels behind it, and after the last step one hop more, home to its owner.
      coming.emplace(group, block_gradient, shape);
    }
    block_gradient = coming->arrived().to(q.scalar_type());
    return {q_gradient.to(q.scalar_type()), block_gradient[0], block_gradient[1], {}, {}, {}};
  }
};

class RingAttention final : public AttentionParallel {
 public:
  explicit RingAttention(Communicator& group) : group_(group) {}

  at::Tensor self_attention(Qkv mine, const Partition& tokens, const AttentionKernel& kernel) const override {
    return Ring::apply(mine.q, mine.k, mine.v, tokens, &group_, &kernel);
  }

 private:
  Communicator& group_;
};

}  // namespace

AttentionPtr make_ring_attention(Communicator& group) {
  return std::make_unique<RingAttention>(group);
}

}  // namespace frameshard
