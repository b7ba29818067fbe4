// Self-attention over a sequence that is divided over ranks. A model calls one function; the strategy is
// chosen outside.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include <ATen/ATen.h>

#include "parallel/comm/communicator.h"
#include "parallel/partition.h"

namespace frameshard {

/// Attention on one device. Shapes are [B, S, H, D]; the scale is 1/sqrt(D); nothing is masked.
class AttentionKernel {
 public:
  virtual ~AttentionKernel() = default;
  /// Differentiable.
  virtual at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const = 0;
  /// Output, and the log of each row's sum of exponentials, [B, H, S] in float32. Not differentiable.
  virtual std::pair<at::Tensor, at::Tensor> attend_with_sums(const at::Tensor& q, const at::Tensor& k,
                                                             const at::Tensor& v) const = 0;
  struct Gradients {
    at::Tensor q, k, v;
  };
  /// Gradients by q, and by this block of k and v, where `output` and `sums` are those over all blocks
  /// (the backward pass of FlashAttention, https://arxiv.org/abs/2205.14135, algorithm 4).
  virtual Gradients backward(const at::Tensor& output_gradient, const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& output, const at::Tensor& sums) const = 0;
};

struct Qkv {
  at::Tensor q, k, v;  ///< [B, S_mine, H, D]
};

/// How the ranks of a context-parallel group compute attention together.
class AttentionParallel {
 public:
  virtual ~AttentionParallel() = default;
  /// This rank's tokens in, this rank's tokens out: [B, S_mine, H, D]. Differentiable. `mine` is given away:
  /// its memory is free again as soon as it is not needed.
  virtual at::Tensor self_attention(Qkv mine, const Partition& tokens,
                                    const AttentionKernel& kernel) const = 0;
};
using AttentionPtr = std::unique_ptr<AttentionParallel>;

/// Whether Ulysses attends over some heads while others are exchanged.
enum class ExchangeOverlap {
  automatic,  ///< where exchanges go on beside computation and are long enough (attention_ulysses.cpp)
  on,
  off
};
/// Of "auto", "on", "off" (infer.overlap_exchange).
ExchangeOverlap parse_overlap(const std::string& text);

/// One rank, all tokens.
AttentionPtr make_local_attention();
/// From pieces of the sequence to pieces of the heads and back, by all-to-all
/// (https://arxiv.org/abs/2309.14509), for any number of tokens and heads. `inner` attends over the whole
/// sequence: local, or a ring between groups like this one, of which this is number `group_index`. Only with
/// a local one may exchanges overlap. Heads go by `speeds` of the whole context-parallel group (divide_heads
/// in balance.h); none: evenly.
AttentionPtr make_ulysses_attention(Communicator& group, AttentionPtr inner, int group_index,
                                    ExchangeOverlap overlap, std::vector<double> speeds = {});
/// Keys and values travel round the ring while each rank keeps its queries
/// (https://arxiv.org/abs/2310.01889): a block goes on to the next rank, and the next one comes, while it is
/// attended.
AttentionPtr make_ring_attention(Communicator& group);

}  // namespace frameshard
