// Attention over n ranks against one rank's, forward and gradients, with tokens and heads that do not divide.
#include "core/rng.h"
#include "models/common/attention_kernel.h"
#include "parallel/attention.h"
#include "parallel/strategies.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::testing::check;
using frameshard::testing::check_close;
using frameshard::testing::on_ranks;

namespace {

struct Problem {
  int64_t heads, head_dim;
  at::ScalarType dtype = at::kDouble;
  int64_t batch = 2;
};

double tolerance(const Problem& problem) {
  return problem.dtype == at::kDouble ? 1e-6 : 1e-5;
}

at::Tensor random(const Problem& problem, int64_t tokens, uint64_t seed) {
  return initial_noise({problem.batch, tokens, problem.heads, problem.head_dim}, seed).to(problem.dtype);
}
at::Tensor leaf(const at::Tensor& x) {
  return x.clone().requires_grad_(true);
}

// One rank, all tokens: output and gradients by a weighted sum of the output.
struct Reference {
  at::Tensor q, k, v, weights, output;

  Reference(const Problem& problem, int64_t tokens)
      : q(leaf(random(problem, tokens, 1))),
        k(leaf(random(problem, tokens, 2))),
        v(leaf(random(problem, tokens, 3))),
        weights(random(problem, tokens, 4)),
        output(make_local_attention()->self_attention({q, k, v}, Partition::even(tokens, 1), sdpa_kernel())) {
    (output * weights).sum().backward();
  }
};

void check_equal_to_one_rank(Communicator& comm, AttentionShape shape, const Problem& problem,
                             const Partition& tokens) {
  const Reference one(problem, tokens.total());
  const auto mine = [&](const at::Tensor& x) {
    return x.narrow(1, tokens.begin(comm.rank()), tokens.size(comm.rank())).detach();
  };
  const AttentionStrategy strategy(comm, shape);
  const at::Tensor q = leaf(mine(one.q)), k = leaf(mine(one.k)), v = leaf(mine(one.v));
  const at::Tensor output = strategy->self_attention({q, k, v}, tokens, sdpa_kernel());
  const std::string where = fmt::format(" (ulysses {} x ring {}, {} heads, tokens {})", shape.ulysses,
                                        shape.ring, problem.heads, fmt::join(tokens.sizes(), "+"));
  check_close(output, mine(one.output), tolerance(problem), "output" + where);
  (output * mine(one.weights)).sum().backward();
  check_close(q.grad(), mine(one.q.grad()), tolerance(problem), "gradient of q" + where);
  check_close(k.grad(), mine(one.k.grad()), tolerance(problem), "gradient of k" + where);
  check_close(v.grad(), mine(one.v.grad()), tolerance(problem), "gradient of v" + where);
  check(output.scalar_type() == problem.dtype && q.grad().scalar_type() == problem.dtype,
        "element type" + where);
}

// Even, uneven and weighted pieces, none of them empty.
std::vector<Partition> partitions(int parts) {
  std::vector<double> speeds;
  for (int i = 0; i < parts; ++i) speeds.push_back(1 + i);
  return {Partition::even(4 * parts, parts), Partition::even(5 * parts + 2, parts),
          Partition::weighted(37, speeds)};
}

const Problem problems[] = {{.heads = 4, .head_dim = 8},
                            {.heads = 7, .head_dim = 8},
                            {.heads = 2, .head_dim = 16, .batch = 1},
                            {.heads = 7, .head_dim = 8, .dtype = at::kFloat}};

}  // namespace

TEST_CASE("Ulysses gives what one rank gives") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for (const Problem& problem : problems) {  // 7 heads over 3 ranks, 2 heads over 3: a rank without heads
      for (const Partition& tokens : partitions(comm.size())) {
        check_equal_to_one_rank(comm, {.ulysses = comm.size(), .ring = 1}, problem, tokens);
      }
    }
  });
}

TEST_CASE("a ring gives what one rank gives") {
  on_ranks({1, 2, 3, 4, 5}, [](Communicator& comm) {
    for (const Problem& problem : problems) {
      for (const Partition& tokens : partitions(comm.size())) {
        check_equal_to_one_rank(comm, {.ulysses = 1, .ring = comm.size()}, problem, tokens);
      }
    }
  });
}

TEST_CASE("a ring between Ulysses groups gives what one rank gives") {
  on_ranks({4}, [](Communicator& comm) {
    for (const Problem& problem :
         {problems[0], problems[1], problems[3], Problem{.heads = 1, .head_dim = 8}}) {
      for (const Partition& tokens : partitions(4)) {
        check_equal_to_one_rank(comm, {.ulysses = 2, .ring = 2}, problem, tokens);
      }
    }
  });
}

TEST_CASE("hybrids of six ranks") {
  on_ranks({6}, [](Communicator& comm) {
    for (AttentionShape shape : {AttentionShape{3, 2}, AttentionShape{2, 3}}) {
      for (const Problem& problem : {problems[1], problems[2]}) {
        check_equal_to_one_rank(comm, shape, problem, Partition::even(32, 6));
      }
    }
  });
}

TEST_CASE("ranks without tokens") {
  on_ranks({2, 3, 4, 5}, [](Communicator& comm) {
    std::vector<double> first(size_t(comm.size()), 1.0), last = first;
    first.front() = 0, last.back() = 0;
    for (const std::vector<double>& speeds : {first, last}) {
      const Partition tokens = Partition::weighted(13, speeds);
      for (const Problem& problem : {problems[1], problems[2]}) {
        check_equal_to_one_rank(comm, {.ulysses = comm.size(), .ring = 1}, problem, tokens);
        check_equal_to_one_rank(comm, {.ulysses = 1, .ring = comm.size()}, problem, tokens);
        if (comm.size() == 4) check_equal_to_one_rank(comm, {.ulysses = 2, .ring = 2}, problem, tokens);
      }
    }
    const Partition few = Partition::even(2, comm.size());  // fewer tokens than ranks
    check_equal_to_one_rank(comm, {.ulysses = comm.size(), .ring = 1}, problems[1], few);
    check_equal_to_one_rank(comm, {.ulysses = 1, .ring = comm.size()}, problems[1], few);
  });
}

TEST_CASE("attention in bfloat16 stays close to float64") {
  on_ranks({1, 2, 3, 4}, [](Communicator& comm) {
    const Problem half{.heads = 5, .head_dim = 16, .dtype = at::kBFloat16};
    const Partition tokens = Partition::even(30, comm.size());
    const auto whole = [&](uint64_t seed) { return random(half, 30, seed); };
    const auto mine = [&](const at::Tensor& x) {
      return x.narrow(1, tokens.begin(comm.rank()), tokens.size(comm.rank()));
    };
    const at::Tensor exact =
        sdpa_kernel().attend(whole(1).to(at::kDouble), whole(2).to(at::kDouble), whole(3).to(at::kDouble));
    for (AttentionShape shape : {AttentionShape{comm.size(), 1}, AttentionShape{1, comm.size()}}) {
      const AttentionStrategy strategy(comm, shape);
      const at::Tensor got =
          strategy->self_attention({mine(whole(1)), mine(whole(2)), mine(whole(3))}, tokens, sdpa_kernel());
      check(got.scalar_type() == at::kBFloat16, "element type");
      check_close(got, mine(exact), 1e-2, "output");
    }
  });
}

TEST_CASE("scores far from 0 do not overflow between blocks") {
  on_ranks({1, 2, 3, 4}, [](Communicator& comm) {
    const Partition tokens = Partition::even(9, comm.size());
    const Problem problem{.heads = 2, .head_dim = 8, .dtype = at::kFloat, .batch = 1};
    const at::Tensor q = random(problem, 9, 1) * 40, k = random(problem, 9, 2) * 40,
                     v = random(problem, 9, 3);
    const auto mine = [&](const at::Tensor& x) {
      return x.narrow(1, tokens.begin(comm.rank()), tokens.size(comm.rank()));
    };
    const AttentionStrategy strategy(comm, {.ulysses = 1, .ring = comm.size()});
    const at::Tensor got = strategy->self_attention({mine(q), mine(k), mine(v)}, tokens, sdpa_kernel());
    check_close(got, mine(sdpa_kernel().attend(q, k, v)), 1e-5, "output");
  });
}
