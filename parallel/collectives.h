// Collectives on tensors with dims, differentiable. A group of one returns its argument.
#pragma once

#include <ATen/ATen.h>

#include "parallel/comm/communicator.h"
#include "parallel/partition.h"

namespace frameshard {

/// Whose loss a whole (gathered or summed) tensor flows into.
enum class Downstream {
  replicated,  ///< every rank computes the same loss from it: its gradient is the same on all, and counts
               ///< once
  partial,     ///< each rank computes its own share of a sum of losses: its gradients add up
};
/// What the gradient of a whole tensor is, on each rank, when every rank goes on with its own piece of it.
enum class Upstream {
  replicated,  ///< made whole again on every rank
  partial,     ///< this rank's share, zero elsewhere; the shares add up when parameter gradients are summed
};

/// whole -> this rank's piece along `dim`. Moves nothing forward.
at::Tensor shard(const at::Tensor& whole, int64_t dim, const Partition& pieces, Communicator& comm,
                 Upstream upstream = Upstream::partial);

/// This rank's piece along `dim` -> whole, on every rank (all-gather).
at::Tensor unshard(const at::Tensor& piece, int64_t dim, const Partition& pieces, Communicator& comm,
                   Downstream downstream);

/// From pieces of `from_dim` (whole along `to_dim`) to pieces of `to_dim` (whole along `from_dim`), by one
/// all-to-all. Sizes need not divide; a piece may be empty. The gradient travels the same way back.
at::Tensor redistribute(const at::Tensor& piece, int64_t from_dim, const Partition& from, int64_t to_dim,
                        const Partition& to, Communicator& comm);

/// Several tensors of one shape and type in one exchange. Where no gradient is wanted each piece is let go of
/// as soon as it is packed.
std::vector<at::Tensor> redistribute(std::vector<at::Tensor> pieces, int64_t from_dim, const Partition& from,
                                     int64_t to_dim, const Partition& to, Communicator& comm);

/// The sum over ranks, on every rank (all-reduce).
at::Tensor sum(const at::Tensor& mine, Communicator& comm, Downstream downstream);

}  // namespace frameshard
