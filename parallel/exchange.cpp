#include "parallel/exchange.h"

#include "core/error.h"

namespace frameshard {
namespace {

// Elements to or from each rank; a rank's own part does not travel.
Counts counts_of(const ExchangeWay& way, const std::vector<at::Tensor>& pieces, int me, bool sent) {
  int64_t others = int64_t(pieces.size());
  for (int64_t d = 0; d < pieces[0].dim(); ++d) {
    others *= d == way.from_dim || d == way.to_dim ? 1 : pieces[0].size(d);
  }
  Counts counts;
  for (size_t i = 0; i < way.from.sizes.size(); ++i) {
    const auto rank = size_t(me);
    const int64_t each =
        sent ? way.from.sizes[rank] * way.to.sizes[i] : way.from.sizes[i] * way.to.sizes[rank];
    counts.push_back(i == rank ? 0 : others * each);
  }
  return counts;
}

// Copies each part once into the buffer that is sent, in the receivers' order, from wherever it lies.
at::Tensor packed(const ExchangeWay& way, const std::vector<at::Tensor>& pieces, const Counts& counts,
                  Communicator& comm) {
  const at::Tensor flat = comm.exchange_buffer(offsets_of(counts).back(), pieces[0].options());
  int64_t at = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    for (const at::Tensor& piece : pieces) {
      const at::Tensor part = piece.narrow(way.to_dim, way.to.begins[i], way.to.sizes[i]);
      flat.narrow(0, at, part.numel()).view(part.sizes()).copy_(part);
      at += part.numel();
    }
  }
  return flat;
}

// Room for a whole that is made of the pieces of all ranks.
at::Tensor room_for(const ExchangeWay& way, const at::Tensor& piece, int me) {
  auto shape = piece.sizes().vec();
  shape[size_t(way.to_dim)] = way.to.sizes[size_t(me)];
  shape[size_t(way.from_dim)] = way.from.begins.back() + way.from.sizes.back();
  return at::empty(shape, piece.options());
}

// What does not travel.
void copy_own_part(const ExchangeWay& way, const at::Tensor& piece, const at::Tensor& whole, int me) {
  const auto rank = size_t(me);
  whole.narrow(way.from_dim, way.from.begins[rank], way.from.sizes[rank])
      .copy_(piece.narrow(way.to_dim, way.to.begins[rank], way.to.sizes[rank]));
}

void unpack(const ExchangeWay& way, const at::Tensor& flat, const Counts& counts,
            const std::vector<at::Tensor>& whole) {
  int64_t at = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    for (const at::Tensor& target : whole) {
      const at::Tensor place = target.narrow(way.from_dim, way.from.begins[i], way.from.sizes[i]);
      place.copy_(flat.narrow(0, at, place.numel()).view(place.sizes()));
      at += place.numel();
    }
  }
}

}  // namespace

std::vector<at::Tensor> exchange_pieces(std::vector<at::Tensor> pieces, const ExchangeWay& way,
                                        Communicator& comm) {
  const int me = comm.rank();
  const int64_t mine = way.from.sizes[size_t(me)], others = way.to.begins.back() + way.to.sizes.back();
  for (const at::Tensor& piece : pieces) {
    require(piece.size(way.from_dim) == mine && piece.size(way.to_dim) == others &&
                piece.sizes() == pieces[0].sizes(),
            "redistribute: a piece of shape [{}] on rank {}, wanted {} along dim {} and {} along dim {}",
            fmt::join(piece.sizes(), ", "), me, mine, way.from_dim, others, way.to_dim);
  }
  const Counts send = counts_of(way, pieces, me, true), recv = counts_of(way, pieces, me, false);
  at::Tensor outgoing = packed(way, pieces, send, comm);
  std::vector<at::Tensor> whole;
  for (at::Tensor& piece : pieces) {
    whole.push_back(room_for(way, piece, me));
    copy_own_part(way, piece, whole.back(), me);
    piece.reset();
  }
  const at::Tensor incoming = comm.all_to_all(outgoing, send, recv);
  outgoing.reset();
  unpack(way, incoming, recv, whole);
  return whole;
}

Pieces pieces_of(const Partition& partition) {
  Pieces pieces{.begins = {}, .sizes = partition.sizes()};
  for (int i = 0; i < partition.parts(); ++i) pieces.begins.push_back(partition.begin(i));
  return pieces;
}

StartedExchange::StartedExchange(const std::vector<at::Tensor>& pieces, std::vector<at::Tensor> whole,
                                 ExchangeWay way, Communicator& comm)
    : way_(std::move(way)), whole_(std::move(whole)) {
  const int me = comm.rank();
  require(pieces.size() == whole_.size(), "redistribute: {} pieces for {} tensors", pieces.size(),
          whole_.size());
  recv_ = counts_of(way_, pieces, me, false);
  const Counts send = counts_of(way_, pieces, me, true);
  pending_ = comm.start_all_to_all(packed(way_, pieces, send, comm), send, recv_);
  for (size_t i = 0; i < pieces.size(); ++i) copy_own_part(way_, pieces[i], whole_[i], me);
}

std::vector<at::Tensor> StartedExchange::finish() {
  unpack(way_, pending_->wait(), recv_, whole_);
  return std::move(whole_);
}

}  // namespace frameshard
