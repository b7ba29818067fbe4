#include "parallel/collectives.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "parallel/exchange.h"

namespace frameshard {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

Counts counts_along(const at::Tensor& piece, int64_t dim, const Partition& pieces, int me) {
  require(piece.size(dim) == pieces.size(me),
          "a piece of {} along dim {} where the partition gives rank {} {}", piece.size(dim), dim, me,
          pieces.size(me));
  int64_t others = 1;
  for (int64_t d = 0; d < piece.dim(); ++d) others *= d == dim ? 1 : piece.size(d);
  Counts counts;
  for (int64_t size : pieces.sizes()) counts.push_back(size * others);
  return counts;
}

std::vector<int64_t> with_size(at::IntArrayRef shape, int64_t dim, int64_t size) {
  std::vector<int64_t> result = shape.vec();
  result[size_t(dim)] = size;
  return result;
}

// Flat pieces in rank order -> one tensor, whole along `dim`.
at::Tensor join(const at::Tensor& flat, const Counts& counts, at::IntArrayRef shape, int64_t dim,
                const Partition& pieces) {
  std::vector<at::Tensor> parts;
  const auto offsets = offsets_of(counts);
  for (int i = 0; i < pieces.parts(); ++i) {
    parts.push_back(
        flat.narrow(0, offsets[size_t(i)], counts[size_t(i)]).view(with_size(shape, dim, pieces.size(i))));
  }
  return at::cat(parts, dim);
}

// One tensor -> its pieces along `dim`, flat, in rank order.
at::Tensor cut(const at::Tensor& whole, int64_t dim, const Partition& pieces) {
  std::vector<at::Tensor> parts;
  for (int i = 0; i < pieces.parts(); ++i) {
    parts.push_back(whole.narrow(dim, pieces.begin(i), pieces.size(i)).reshape({-1}));
  }
  return at::cat(parts);
}

at::Tensor take_piece(const at::Tensor& whole, int64_t dim, const Partition& pieces, int me) {
  require(whole.size(dim) == pieces.total(), "{} along dim {} where the partition has {}", whole.size(dim),
          dim, pieces.total());
  return whole.narrow(dim, pieces.begin(me), pieces.size(me));
}

at::Tensor gather_pieces(const at::Tensor& piece, int64_t dim, const Partition& pieces, Communicator& comm) {
  const Counts counts = counts_along(piece, dim, pieces, comm.rank());
  const at::Tensor flat = comm.all_gather(piece.contiguous().view({-1}), counts);
  return join(flat, counts, piece.sizes(), dim, pieces);
}

at::Tensor scatter_sum(const at::Tensor& whole, int64_t dim, const Partition& pieces, Communicator& comm) {
  const auto shape = with_size(whole.sizes(), dim, pieces.size(comm.rank()));
  const Counts counts =
      counts_along(at::empty(shape, whole.options().device(at::kMeta)), dim, pieces, comm.rank());
  return comm.reduce_scatter(cut(whole, dim, pieces), counts).view(shape);
}

// Autograd functions hold what the backward needs in the context's saved data; a Partition goes as its sizes.
Communicator& saved_comm(AutogradContext* context) {
  return *reinterpret_cast<Communicator*>(context->saved_data["comm"].toInt());
}
void save(AutogradContext* context, Communicator& comm) {
  context->saved_data["comm"] = int64_t(reinterpret_cast<intptr_t>(&comm));
}
Partition saved_partition(AutogradContext* context, const char* name) {
  return Partition::of_sizes(context->saved_data[name].toIntVector());
}

struct Shard : Function<Shard> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& whole, int64_t dim,
                            const Partition& pieces, Communicator* comm, bool make_whole) {
    save(context, *comm);
    context->saved_data["dim"] = dim;
    context->saved_data["pieces"] = pieces.sizes();
    context->saved_data["make_whole"] = make_whole;
    return take_piece(whole, dim, pieces, comm->rank()).contiguous();
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    Communicator& comm = saved_comm(context);
    const int64_t dim = context->saved_data["dim"].toInt();
    const Partition pieces = saved_partition(context, "pieces");
    at::Tensor result;
    if (context->saved_data["make_whole"].toBool()) {
      result = gather_pieces(gradients[0], dim, pieces, comm);
    } else {
      result = at::zeros(with_size(gradients[0].sizes(), dim, pieces.total()), gradients[0].options());
      take_piece(result, dim, pieces, comm.rank()).copy_(gradients[0]);
    }
    return {result, {}, {}, {}, {}};
  }
};

struct Unshard : Function<Unshard> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& piece, int64_t dim,
                            const Partition& pieces, Communicator* comm, bool add_gradients) {
    save(context, *comm);
    context->saved_data["dim"] = dim;
    context->saved_data["pieces"] = pieces.sizes();
    context->saved_data["add_gradients"] = add_gradients;
    return gather_pieces(piece, dim, pieces, *comm);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    Communicator& comm = saved_comm(context);
    const int64_t dim = context->saved_data["dim"].toInt();
    const Partition pieces = saved_partition(context, "pieces");
    const at::Tensor result = context->saved_data["add_gradients"].toBool()
                                  ? scatter_sum(gradients[0], dim, pieces, comm)
                                  : take_piece(gradients[0], dim, pieces, comm.rank()).contiguous();
    return {result, {}, {}, {}, {}};
  }
};

struct Redistribute : Function<Redistribute> {
  static variable_list forward(AutogradContext* context, at::TensorList pieces, int64_t from_dim,
                               const Partition& from, int64_t to_dim, const Partition& to,
                               Communicator* comm) {
    save(context, *comm);
    context->saved_data["from_dim"] = from_dim;
    context->saved_data["to_dim"] = to_dim;
    context->saved_data["from"] = from.sizes();
    context->saved_data["to"] = to.sizes();
    return exchange_pieces(pieces.vec(), {from_dim, pieces_of(from), to_dim, pieces_of(to)}, *comm);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Partition from = saved_partition(context, "from"), to = saved_partition(context, "to");
    const ExchangeWay back{context->saved_data["to_dim"].toInt(), pieces_of(to),
                           context->saved_data["from_dim"].toInt(), pieces_of(from)};
    variable_list result = exchange_pieces(gradients, back, saved_comm(context));
    result.resize(result.size() + 5);  // the arguments that are no tensors
    return result;
  }
};

struct Sum : Function<Sum> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& mine, Communicator* comm,
                            bool add_gradients) {
    save(context, *comm);
    context->saved_data["add_gradients"] = add_gradients;
    at::Tensor total = mine.contiguous().clone();
    comm->all_reduce(total);
    return total;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    at::Tensor result = gradients[0];
    if (context->saved_data["add_gradients"].toBool()) {
      result = result.contiguous().clone();
      saved_comm(context).all_reduce(result);
    }
    return {result, {}, {}};
  }
};

}  // namespace

at::Tensor shard(const at::Tensor& whole, int64_t dim, const Partition& pieces, Communicator& comm,
                 Upstream upstream) {
  if (comm.size() == 1) return whole;
  return Shard::apply(whole, dim, pieces, &comm, upstream == Upstream::replicated);
}

at::Tensor unshard(const at::Tensor& piece, int64_t dim, const Partition& pieces, Communicator& comm,
                   Downstream downstream) {
  if (comm.size() == 1) return piece;
  return Unshard::apply(piece, dim, pieces, &comm, downstream == Downstream::partial);
}

std::vector<at::Tensor> redistribute(std::vector<at::Tensor> pieces, int64_t from_dim, const Partition& from,
                                     int64_t to_dim, const Partition& to, Communicator& comm) {
  if (comm.size() == 1) return pieces;
  if (!c10::GradMode::is_enabled()) {
    return exchange_pieces(std::move(pieces), {from_dim, pieces_of(from), to_dim, pieces_of(to)}, comm);
  }
  return Redistribute::apply(at::TensorList(pieces), from_dim, from, to_dim, to, &comm);
}

at::Tensor redistribute(const at::Tensor& piece, int64_t from_dim, const Partition& from, int64_t to_dim,
                        const Partition& to, Communicator& comm) {
  return redistribute(std::vector<at::Tensor>{piece}, from_dim, from, to_dim, to, comm)[0];
}

at::Tensor sum(const at::Tensor& mine, Communicator& comm, Downstream downstream) {
  if (comm.size() == 1) return mine;
  return Sum::apply(mine, &comm, downstream == Downstream::partial);
}

}  // namespace frameshard
