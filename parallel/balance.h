// What each rank of a context-parallel group gets where ranks differ in speed. In a layer all ranks meet
// between the work on tokens and the attention of heads, so that each of the two goes by the speeds for
// itself.
#pragma once

#include <span>

#include "parallel/partition.h"

namespace frameshard {

/// The heads of each place in the Ulysses groups of a context-parallel group, `ulysses` neighbouring ranks
/// each, in proportion to the ranks' speeds (any unit, >= 0). A place has the same heads in every
/// group, since a ring passes them on from one to the next. Even where there are no speeds, or all are 0
/// (such a group is dealt no passes).
Partition divide_heads(int64_t heads, int ulysses, std::span<const double> speeds);

/// The tokens of each of `ranks` ranks, likewise.
Partition divide_tokens(int64_t tokens, std::span<const double> speeds, int ranks);

}  // namespace frameshard
