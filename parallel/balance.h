// What each rank of a context-parallel group gets where ranks differ in speed.
#pragma once

#include <span>

#include "parallel/partition.h"

namespace frameshard {

/// What a forward pass of a transformer costs, as far as its division goes.
struct SequenceCost {
  int64_t heads = 1;
  double attention_share = 0;  ///< of all operations: self-attention's, which go with the heads
};
/// Of a layer's 4 S^2 d + S (12 d^2 + 4 d f); cross-attention's 4 S T d, which hardly counts, is left out.
inline double attention_share(int64_t tokens, int64_t width, int64_t ffn_dim) {
  return double(tokens) / double(tokens + 3 * width + ffn_dim);
}

/// The heads of each place in the Ulysses groups of a context-parallel group, `ulysses` neighbouring ranks
/// each, in proportion to the ranks' speeds (any unit, >= 0, not all 0). A place has the same heads in every
/// group, since a ring passes them on from one to the next. Even where there are no speeds or they are all
/// the same.
Partition divide_heads(int64_t heads, int ulysses, std::span<const double> speeds);

/// The tokens of each rank of a context-parallel group whose Ulysses groups are `ulysses` neighbouring ranks
/// each. A forward pass costs a rank cost.attention_share in proportion to its heads (of its group's rows)
/// and the rest in proportion to its tokens. Heads are few and whole, so that they alone cannot follow the
/// speeds: the tokens make up for what divide_heads() had to round. Even where there are no speeds or they
/// are all the same.
Partition divide_tokens(int64_t tokens, const SequenceCost& cost, int ulysses, std::span<const double> speeds,
                        int ranks);

}  // namespace frameshard
