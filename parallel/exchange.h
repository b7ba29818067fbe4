// Pieces of one dim exchanged for pieces of another, by one all-to-all: what redistribute (collectives.h)
// does, without gradients, and in two halves.
#pragma once

#include <memory>
#include <vector>

#include <ATen/ATen.h>

#include "parallel/comm/communicator.h"
#include "parallel/partition.h"

namespace frameshard {

/// Pieces of one dim, one a rank, anywhere in it: a partition's, or a part of each of them.
struct Pieces {
  std::vector<int64_t> begins, sizes;
};
Pieces pieces_of(const Partition& partition);

/// What travels between two ranks: of each tensor, the sender's piece along from_dim and the receiver's along
/// to_dim. The same on all ranks.
struct ExchangeWay {
  int64_t from_dim;
  Pieces from;
  int64_t to_dim;
  Pieces to;
};

/// This rank's pieces of from_dim, whole along to_dim -> its pieces of to_dim, whole along from_dim. All
/// tensors have one shape and type; each is let go of as soon as it is packed.
std::vector<at::Tensor> exchange_pieces(std::vector<at::Tensor> pieces, const ExchangeWay& way,
                                        Communicator& comm);

/// The same in two halves, between which this rank computes. Every rank starts the same ones in the same
/// order and finishes them in that order.
class StartedExchange {
 public:
  /// Packs and starts. `pieces`: of from_dim this rank's piece alone, of to_dim what `to` refers to. `whole`:
  /// a tensor a piece, of from_dim what `from` refers to, of to_dim this rank's piece, filled in by finish().
  StartedExchange(const std::vector<at::Tensor>& pieces, std::vector<at::Tensor> whole, ExchangeWay way,
                  Communicator& comm);
  std::vector<at::Tensor> finish();

 private:
  ExchangeWay way_;
  std::vector<at::Tensor> whole_;
  Counts recv_;
  std::unique_ptr<PendingExchange> pending_;
};

}  // namespace frameshard
