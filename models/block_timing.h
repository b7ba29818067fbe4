// How long a device takes for a rank's part of a transformer block, with random weights of the model's size.
#pragma once

#include <ATen/ATen.h>

#include "parallel/plan.h"

namespace frameshard {

/// A rank's part of a block: products over its tokens, attention of its heads over all tokens, as Ulysses
/// divides it. A ring's rank computes as many operations.
struct BlockShape {
  int64_t heads = 0, head_dim = 0, ffn_dim = 0;
  int64_t tokens = 0, rank_tokens = 0, rank_heads = 0, text_tokens = 0;

  double operations() const;
  bool operator==(const BlockShape&) const = default;
};

/// The part of one of `ranks` ranks with even shares. Of a block beyond `most_operations` for a rank the
/// tokens are fewer, so that it is measured in seconds and the speeds of ranks still compare.
BlockShape block_shape(const ModelFacts& model, int64_t tokens, int64_t text_tokens, int ranks,
                       double most_operations);

/// What a rank on a CPU, or a GPU, does in about a quarter of a second at the most.
double most_block_operations(const at::Device& device);

/// Median seconds of the block, by the routines that the models use, in float32 or 16 bits. Runs once to
/// warm up and then for about a second: at least 3 times, fewer where one takes long. Waits for the device.
double block_seconds(const BlockShape& shape, const at::Device& device, at::ScalarType dtype);

}  // namespace frameshard
