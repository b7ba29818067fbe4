// Ranks of unequal speed: other shares of the tokens and heads, and the same result.
#include "core/rng.h"
#include "models/common/attention_kernel.h"
#include "tests/support/small_denoise.h"

using namespace frameshard;
using namespace frameshard::testing;

TEST_CASE("2 ranks of unequal speed") {
  check_same({{{.cp = 2}, {2, 1}, {1, 1}},
              {{.cp = 2}, {2, 1}, {2, 1}},
              {{.cp = 2}, {2, 1}, {30, 70}},
              {{.cp = 2}, {1, 2}, {2, 1}},
              {{.cp = 2}, {2, 1}, {1, 0}},
              {{.cp = 2}, {1, 2}, {0, 1}},
              {{.cfg = 2}, {1, 1}, {2, 1}}});
}

TEST_CASE("4 ranks of unequal speed, also with guidance, as a ring, and one without work") {
  check_same({{{.cp = 4}, {4, 1}, {40, 40, 15, 5}},
              {{.cp = 4}, {2, 2}, {40, 40, 15, 5}},
              {{.cp = 4}, {2, 2}, {5, 40, 0, 15}},
              {{.cp = 4}, {1, 4}, {40, 0, 15, 5}},
              {{.cfg = 2, .cp = 2}, {2, 1}, {2, 1, 1, 3}}});
}

TEST_CASE("5 unequal ranks for fewer heads") {
  check_same({{{.cp = 5}, {5, 1}, {1, 2, 3, 4, 5}}, {{.cp = 5}, {5, 1}, {3, 0, 1, 1, 1}}});
}

TEST_CASE("gradients where a rank has no tokens and no heads") {
  const auto random = [](int64_t tokens, uint64_t seed) {
    return initial_noise({1, tokens, 4, 8}, seed).to(at::kDouble);
  };
  const int64_t tokens = 24;
  const at::Tensor q = random(tokens, 1).requires_grad_(), k = random(tokens, 2).requires_grad_(),
                   v = random(tokens, 3).requires_grad_(), weights = random(tokens, 4);
  (make_local_attention()->self_attention({q, k, v}, Partition::even(tokens, 1), sdpa_kernel()) * weights)
      .sum()
      .backward();
  on_ranks({3}, [&](Communicator& comm) {
    for (const AttentionShape shape : {AttentionShape{3, 1}, AttentionShape{1, 3}}) {
      const AttentionStrategy strategy(comm, shape, ExchangeOverlap::automatic, {3, 0, 1});
      const Partition pieces = strategy.divide(tokens);
      check(pieces.size(1) == 0, "no tokens");
      const auto mine = [&](const at::Tensor& x) {
        return x.detach().narrow(1, pieces.begin(comm.rank()), pieces.size(comm.rank())).clone();
      };
      const at::Tensor mq = mine(q).requires_grad_(), mk = mine(k).requires_grad_(),
                       mv = mine(v).requires_grad_();
      const at::Tensor output = strategy->self_attention({mq, mk, mv}, pieces, sdpa_kernel());
      (output * mine(weights)).sum().backward();
      check_close(mq.grad(), mine(q.grad()), 1e-6, "gradient of q");
      check_close(mk.grad(), mine(k.grad()), 1e-6, "gradient of k");
      check_close(mv.grad(), mine(v.grad()), 1e-6, "gradient of v");
    }
  });
}
