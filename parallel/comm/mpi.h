// Ranks as processes. CUDA tensors go through pinned host buffers, so several ranks may share one GPU.
#pragma once

#include <mpi.h>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// Duplicates `comm`: messages never mix with another user's of it.
CommPtr make_mpi_communicator(MPI_Comm comm, const std::string& name);

}  // namespace frameshard
