// NCCL groups, one GPU a rank; the code lies in the CUDA module (core/cuda_module.h).
#pragma once

#include "parallel/comm/backends.h"

namespace frameshard {

/// Symbol `frameshard_make_nccl` of the module: a group over the same ranks as `bootstrap` (owned from then
/// on), which carries NCCL's unique id.
using MakeNccl = Communicator*(Communicator* bootstrap, int device);

/// What a group keeps registered with NCCL for its exchanges, at the most.
inline constexpr int64_t most_registered_bytes = int64_t{512} << 20;

/// 78 where there is no GPU.
GroupMaker nccl_group_maker(const at::Device& device);

}  // namespace frameshard
