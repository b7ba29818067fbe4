// The three places where a denoiser meets context parallelism: enter, self_attention, leave.
#pragma once

#include <optional>

#include "parallel/attention.h"
#include "parallel/partition.h"

namespace frameshard {

/// One request's token sequence, divided over the context-parallel group. For a group of one every call is
/// free.
class ParallelSequence {
 public:
  /// `wire`: the type in which ranks exchange that compute in different ones, the same on all of them; then
  /// without gradients. Left out: that of the tensors.
  ParallelSequence(Communicator& cp, const AttentionParallel& attention, Partition tokens,
                   std::optional<at::ScalarType> wire = std::nullopt)
      : cp_(cp), attention_(attention), tokens_(std::move(tokens)), wire_(wire) {}

  /// After patchify: all tokens [B, S, C] -> this rank's [B, S_mine, C].
  at::Tensor enter(const at::Tensor& whole) const;
  /// Before unpatchify: this rank's tokens [B, S_mine, C] -> all [B, S, C], in the type that is exchanged: in
  /// their own, ranks of different types would go on from different numbers.
  at::Tensor leave(const at::Tensor& mine) const;
  /// [B, S_mine, H, D] each, in and out.
  at::Tensor self_attention(Qkv mine, const AttentionKernel& kernel) const;
  /// The rows of a table over all tokens [S, …] that belong to this rank (positions for RoPE).
  at::Tensor positions(const at::Tensor& table) const;

  const Partition& tokens() const { return tokens_; }

 private:
  Communicator& cp_;
  const AttentionParallel& attention_;
  Partition tokens_;
  std::optional<at::ScalarType> wire_;
};

}  // namespace frameshard
