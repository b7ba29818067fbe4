// Ranks of unequal speed: other shares of the tokens and heads, and the same result.
#include "core/rng.h"
#include "models/common/attention_kernel.h"
#include "models/pipeline.h"
#include "parallel/comm/self.h"
#include "parallel/plan_costs.h"
#include "tests/support/rank_test.h"
#include "tests/support/small_model.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

const at::Device cpu(at::kCPU);

struct Case {
  MeshShape mesh;
  AttentionShape attention;
  std::vector<double> speeds;  // of all ranks

  Split split() const { return {mesh, attention, speeds}; }
  std::string text() const {
    return fmt::format("cfg {} x cp {}, ulysses {} x ring {}, speeds {}", mesh.cfg, mesh.cp,
                       attention.ulysses, attention.ring, fmt::join(speeds, ":"));
  }
};

RequestConfig small_request() {
  RequestConfig request;
  request.width = 48, request.height = 80, request.num_frames = 9;  // latents [16, 3, 10, 6], 45 tokens
  request.num_inference_steps = 3, request.max_sequence_length = 20;
  return request;
}

struct Denoised {
  at::Tensor latents;
  int64_t bytes_sent = 0;
};

Denoised denoise(const SmallModel& model, Communicator& world, const Case& what) {
  ProcessMesh mesh(world, what.mesh, group_maker("mpi", cpu));
  const int group = mesh.coord().dp * what.mesh.cfg + mesh.coord().cfg;
  const AttentionStrategy attention(mesh.cp(), what.attention, ExchangeOverlap::automatic,
                                    what.split().speeds_of(group));
  const RequestConfig request = small_request();
  const auto schedule = model.checkpoint().schedule({}, request.num_inference_steps);
  Denoised made;
  made.latents =
      DenoiseLoop(model.denoiser(), mesh, attention, cpu)
          .run(request, model.text(), *schedule, {.latents = starting_noise(request, 0, model.denoiser())},
               [](const DenoiseState&) {});
  const Moved moved = moved_by(mesh, attention);
  made.bytes_sent = moved.cp_bytes + moved.cfg_bytes;
  return made;
}

// The result, and the bytes that the plan counts.
void check_same(const std::vector<Case>& cases) {
  const SmallModel model;
  const at::Tensor one = denoise(model, *make_self_communicator(), {}).latents;
  const ModelFacts facts = model.checkpoint().facts(at::kFloat, at::kFloat);
  const Workload work = workload_of({small_request()}, facts);
  for (const Case& what : cases) {
    on_ranks({what.mesh.ranks()}, [&](Communicator& world) {
      const Denoised mine = denoise(model, world, what);
      check_close(mine.latents, one, 1e-5, what.text());
      const SentBytes planned = sent_bytes(what.split(), work.largest, facts, world.rank());
      check(mine.bytes_sent == planned.cp + planned.cfg,
            fmt::format("{}: rank {} sent {} bytes, planned {}", what.text(), world.rank(), mine.bytes_sent,
                        planned.cp + planned.cfg));
    });
  }
}

}  // namespace

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
