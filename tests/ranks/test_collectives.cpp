// Collectives on tensors with dims against what one rank computes, forward and gradient. Each loss is a sum
// over elements with fixed weights, so that every element's gradient is known.
#include "core/rng.h"
#include "parallel/collectives.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::testing::check;
using frameshard::testing::check_close;
using frameshard::testing::on_ranks;

namespace {

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return initial_noise(shape, seed).to(at::kDouble);
}
at::Tensor leaf(const at::Tensor& x) {
  return x.clone().requires_grad_(true);
}

// Sizes that divide and that do not, parts of size 0, and speeds.
std::vector<Partition> partitions(int parts) {
  std::vector<double> speeds;
  for (int i = 0; i < parts; ++i) speeds.push_back(i == parts - 1 && parts > 1 ? 0 : 1 + i);
  return {Partition::even(3 * parts, parts), Partition::even(3 * parts + 1, parts), Partition::even(2, parts),
          Partition::weighted(11, speeds)};
}

at::Tensor piece_of(const at::Tensor& whole, int64_t dim, const Partition& pieces, const Communicator& comm) {
  return whole.narrow(dim, pieces.begin(comm.rank()), pieces.size(comm.rank()));
}

// Shape [2, 3, 4] with `dim` as long as the partition.
std::vector<int64_t> shape_for(int64_t dim, const Partition& pieces) {
  std::vector<int64_t> shape{2, 3, 4};
  shape[size_t(dim)] = pieces.total();
  return shape;
}

template <class Body>
void for_each_case(Communicator& comm, Body body) {
  for (const Partition& pieces : partitions(comm.size())) {
    for (int64_t dim : {0, 1, 2}) body(dim, pieces);
  }
}

}  // namespace

TEST_CASE("shard: a rank's piece; its gradient a share of the whole, or the whole") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for_each_case(comm, [&](int64_t dim, const Partition& pieces) {
      const at::Tensor whole = random(shape_for(dim, pieces), 1), weights = random(whole.sizes(), 2);
      const at::Tensor weights_here = piece_of(weights, dim, pieces, comm);
      for (Upstream upstream : {Upstream::partial, Upstream::replicated}) {
        const at::Tensor x = leaf(whole);
        const at::Tensor mine = shard(x, dim, pieces, comm, upstream);
        check_close(mine, piece_of(whole, dim, pieces, comm), 0, "shard");
        (mine * weights_here).sum().backward();
        at::Tensor wanted = weights;
        if (upstream == Upstream::partial) {
          wanted = at::zeros_like(weights);
          piece_of(wanted, dim, pieces, comm).copy_(weights_here);
        }
        check_close(x.grad(), wanted, 0, "gradient of shard");
        if (upstream == Upstream::partial) {
          at::Tensor sum = x.grad().contiguous();
          comm.all_reduce(sum);
          check_close(sum, weights, 0, "the shares' sum");
        }
      }
    });
  });
}

TEST_CASE("unshard: the whole; one loss on every rank counts once, a rank's own losses add up") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for_each_case(comm, [&](int64_t dim, const Partition& pieces) {
      const at::Tensor whole = random(shape_for(dim, pieces), 3);
      const auto weights_of = [&](int rank) { return random(whole.sizes(), 4 + uint64_t(rank)); };
      for (Downstream downstream : {Downstream::replicated, Downstream::partial}) {
        const bool partial = downstream == Downstream::partial;
        const at::Tensor mine = leaf(piece_of(whole, dim, pieces, comm));
        const at::Tensor gathered = unshard(mine, dim, pieces, comm, downstream);
        check_close(gathered, whole, 0, "unshard");
        (gathered * weights_of(partial ? comm.rank() : 0)).sum().backward();
        at::Tensor wanted = weights_of(0);
        for (int i = 1; partial && i < comm.size(); ++i) wanted = wanted + weights_of(i);
        check_close(mine.grad(), piece_of(wanted, dim, pieces, comm), 1e-14, "gradient of unshard");
      }
    });
  });
}

TEST_CASE("redistribute: from pieces of one dim to pieces of another, and the gradient back") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for (const Partition& from : partitions(comm.size())) {
      for (const Partition& to : partitions(comm.size())) {
        for (const auto& [from_dim, to_dim] : {std::pair<int64_t, int64_t>(1, 2), {2, 1}, {0, 3}, {3, 0}}) {
          std::vector<int64_t> shape{2, 3, 2, 3};
          shape[size_t(from_dim)] = from.total(), shape[size_t(to_dim)] = to.total();
          const at::Tensor whole = random(shape, 5), weights = random(shape, 6);
          const at::Tensor mine = leaf(piece_of(whole, from_dim, from, comm));
          const at::Tensor turned = redistribute(mine, from_dim, from, to_dim, to, comm);
          if (comm.size() > 1) check_close(turned, piece_of(whole, to_dim, to, comm), 0, "redistribute");
          (turned * piece_of(weights, to_dim, to, comm)).sum().backward();
          check_close(mine.grad(), piece_of(weights, from_dim, from, comm), 0, "gradient of redistribute");
          const at::Tensor back = redistribute(turned, to_dim, to, from_dim, from, comm);
          check_close(back, mine, 0, "there and back");
        }
      }
    }
  });
}

TEST_CASE("redistribute: several tensors in one exchange are as each alone") {
  on_ranks({1, 2, 3, 5}, [](Communicator& comm) {
    const Partition rows = Partition::even(7, comm.size()), heads = Partition::even(4, comm.size());
    // As q, k and v come: slices of one product, not contiguous.
    const at::Tensor whole = random({2, 7, 4, 9}, 8), weights = random({2, 7, 4, 9}, 9);
    const at::Tensor mine = leaf(piece_of(whole, 1, rows, comm));
    const auto calls = comm.stats().calls;
    const auto turned = redistribute(mine.split(3, -1), 1, rows, 2, heads, comm);
    if (comm.size() > 1) check(comm.stats().calls == calls + 1, "one exchange");
    check_close(at::cat(turned, -1), comm.size() > 1 ? piece_of(whole, 2, heads, comm) : whole, 0,
                "together");
    const auto weight = (comm.size() > 1 ? piece_of(weights, 2, heads, comm) : weights).split(3, -1);
    (turned[0] * weight[0] + turned[1] * weight[1] + turned[2] * weight[2]).sum().backward();
    check_close(mine.grad(), piece_of(weights, 1, rows, comm), 0, "gradient");
  });
}

TEST_CASE("sum: over ranks; one loss on every rank counts once, a rank's own losses add up") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    const std::vector<int64_t> shape{3, 5};
    const auto part_of = [&](int rank) { return random(shape, 20 + uint64_t(rank)); };
    const auto weights_of = [&](int rank) { return random(shape, 30 + uint64_t(rank)); };
    at::Tensor total = part_of(0), all_weights = weights_of(0);
    for (int i = 1; i < comm.size(); ++i)
      total = total + part_of(i), all_weights = all_weights + weights_of(i);
    for (Downstream downstream : {Downstream::replicated, Downstream::partial}) {
      const bool partial = downstream == Downstream::partial;
      const at::Tensor mine = leaf(part_of(comm.rank()));
      const at::Tensor got = sum(mine, comm, downstream);
      check_close(got, total, 1e-14, "sum");
      check(at::equal(mine, part_of(comm.rank())), "the argument stays");
      (got * weights_of(partial ? comm.rank() : 0)).sum().backward();
      check_close(mine.grad(), partial ? all_weights : weights_of(0), 1e-14, "gradient of sum");
    }
  });
}

TEST_CASE("tensors that are not contiguous, and bfloat16") {
  on_ranks({1, 2, 3, 5}, [](Communicator& comm) {
    const Partition rows = Partition::even(7, comm.size()), columns = Partition::even(4, comm.size());
    const at::Tensor whole = random({4, 7}, 7).to(at::kBFloat16).t();
    const at::Tensor mine = shard(whole, 0, rows, comm);
    check(at::equal(unshard(mine, 0, rows, comm, Downstream::replicated), whole), "there and back");
    if (comm.size() == 1) return;
    const at::Tensor turned = redistribute(mine.t(), 1, rows, 0, columns, comm);
    check(at::equal(turned, piece_of(whole.t(), 0, columns, comm)), "redistribute");
  });
}

// A layer whose weight every rank holds whole: rows in pieces, the loss on all ranks, gradients summed.
TEST_CASE("a layer between shard and unshard has one rank's gradients") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for (int64_t rows : {10, 11, 3}) {
      const Partition pieces = Partition::even(rows, comm.size());
      const at::Tensor input = random({1, rows, 6}, 8), weights = random({1, rows, 4}, 9);
      const at::Tensor lone_x = leaf(input), lone_w = leaf(random({4, 6}, 10));
      (at::tanh(at::linear(lone_x, lone_w)) * weights).sum().backward();

      const at::Tensor x = leaf(input), w = leaf(random({4, 6}, 10));
      const at::Tensor mine = shard(x, 1, pieces, comm);
      const at::Tensor out = unshard(at::tanh(at::linear(mine, w)), 1, pieces, comm, Downstream::replicated);
      (out * weights).sum().backward();
      at::Tensor w_gradient = w.grad().contiguous(), x_gradient = x.grad().contiguous();
      comm.all_reduce(w_gradient);
      comm.all_reduce(x_gradient);
      check_close(w_gradient, lone_w.grad(), 1e-13, "gradient of the weight");
      check_close(x_gradient, lone_x.grad(), 1e-13, "gradient of the input");
    }
  });
}
