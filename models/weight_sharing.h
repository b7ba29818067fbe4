// Weights that the ranks of a host read together.
#pragma once

#include "core/shared_memory.h"
#include "models/weights.h"
#include "parallel/comm/host_group.h"

namespace frameshard {

/// Where a model's weights lie in one block of memory.
struct WeightLayout {
  std::vector<int64_t> offsets;  ///< of each slot, in bytes; those that are no later part of a whole: aligned
  int64_t bytes = 0;             ///< of the block
};
/// Slots in their order, parts of a whole next to each other; each begins at a multiple of 64 bytes, as
/// LibTorch's own allocations do.
WeightLayout layout_of(const WeightList& list, at::ScalarType dtype);

/// The rank, of `ranks`, that reads each slot: consecutive slots each, none more than the largest slot above
/// an even share of the bytes.
std::vector<int> deal_slots(const WeightList& list, at::ScalarType dtype, int ranks);

using OpenSharedMemory = std::function<std::shared_ptr<SharedMemory>(const std::string& address)>;

/// A block that the ranks of a host share, or null on all of them where one cannot make or open it: the first
/// rank's log says why. Collective.
std::shared_ptr<SharedMemory> share_memory(Communicator& host, int64_t bytes, const OpenSharedMemory& open);

/// load_weights with `options.host`. On CPUs each rank reads its part of the weights into a block that all
/// see (with copies of their own where no block can be shared); on GPUs to its device, from where it is
/// broadcast to the others. Where a rank fails, all throw, with the code and message of the lowest that did.
void load_weights_together(const WeightList& list, const WeightFiles& files, const LoadOptions& options,
                           const OpenSharedMemory& open = SharedMemory::open);

}  // namespace frameshard
