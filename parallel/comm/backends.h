// The backends by name, and how the groups of a mesh are made with one.
#pragma once

#include <functional>
#include <string>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// Turns a freshly split group (which moves host data) into one that moves tensors of `device`.
using GroupMaker = std::function<CommPtr(CommPtr bootstrap)>;

/// The maker for `backend` (nccl, mpi, threads); 78 for an unknown name, and for nccl where it cannot be.
GroupMaker group_maker(const std::string& backend, const at::Device& device);

/// The backend for `wanted` (auto or a name). `own_gpu`: every rank of this host has a GPU to itself, which
/// NCCL needs.
std::string resolve_backend(const std::string& wanted, bool under_mpi, const at::Device& device,
                            bool own_gpu);

}  // namespace frameshard
