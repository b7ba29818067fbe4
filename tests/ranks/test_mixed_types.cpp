// Ranks that compute in different types: one result on all of them, near to that of one rank in float32.
#include <c10/core/GradMode.h>

#include "models/common/attention_kernel.h"
#include "tests/support/expect_error.h"
#include "tests/support/small_denoise.h"

using namespace frameshard;
using namespace frameshard::testing;
using frameshard::test::caught;

namespace {

struct Types {
  at::ScalarType even, odd, wire;  // of ranks with an even number, and with an odd one
  double error;                    // to float32
};

// A type's unit roundoff is 2^-9 (bfloat16) and 2^-12 (float16).
const std::vector<Types> types = {{at::kFloat, at::kBFloat16, at::kBFloat16, 2e-2},
                                  {at::kBFloat16, at::kFloat, at::kBFloat16, 2e-2},
                                  {at::kFloat, at::kHalf, at::kHalf, 3e-3},
                                  {at::kBFloat16, at::kHalf, at::kFloat, 2e-2}};

void check_all_alike(Communicator& world, const at::Tensor& latents, const std::string& where) {
  at::Tensor first = latents.clone();
  world.broadcast(first, 0);
  check(at::equal(first, latents), where + ": the ranks go on from different numbers");
}

void check_mixed(const std::vector<Case>& cases, const RequestConfig& request = small_request()) {
  const SmallModel wide;
  const at::Tensor one = denoise(wide, *make_self_communicator(), {}, request).latents;
  for (const Types& each : types) {
    const SmallModel even(each.even), odd(each.odd);
    ModelFacts facts = wide.checkpoint().facts(at::kFloat, at::kFloat);
    facts.wire_bytes = int64_t(c10::elementSize(each.wire));
    const Workload work = workload_of({request}, facts);
    for (const Case& what : cases) {
      on_ranks({what.mesh.ranks()}, [&](Communicator& world) {
        const std::string where = fmt::format("{}, exchanged in {}", what.text(), c10::toString(each.wire));
        const Denoised mine =
            denoise(world.rank() % 2 == 0 ? even : odd, world, what, request, {.wire = each.wire});
        check_close(mine.latents, one, each.error, where);
        check_all_alike(world, mine.latents, where);
        const SentBytes planned = sent_bytes(what.split(), work.largest, facts, world.rank());
        check(mine.bytes_sent == planned.cp + planned.cfg,
              fmt::format("{}: rank {} sent {} bytes, planned {}", where, world.rank(), mine.bytes_sent,
                          planned.cp + planned.cfg));
      });
    }
  }
}

}  // namespace

TEST_CASE("2 ranks of different types") {
  check_mixed({{{.cp = 2}, {2, 1}, {}}, {{.cp = 2}, {1, 2}, {2, 1}}, {{.cfg = 2}, {1, 1}, {}}});
}

TEST_CASE("3 and 4 ranks of different types") {
  check_mixed(
      {{{.cp = 3}, {3, 1}, {}}, {{.cp = 4}, {2, 2}, {3, 1, 1, 2}}, {{.cfg = 2, .cp = 2}, {2, 1}, {}}});
}

TEST_CASE("context windows over ranks of different types") {
  RequestConfig request = small_request();
  request.num_frames = 17;  // 5 latent frames, in windows of 3
  request.context = ContextConfig{.window = 9, .overlap = 4};
  check_mixed({{{.cp = 2}, {2, 1}, {}}, {{.cfg = 2}, {1, 1}, {2, 1}}}, request);
}

TEST_CASE("several weighted prompts over ranks of different types") {
  RequestConfig request = small_request();
  request.prompt.clear();
  request.prompts = {{.text = "a"}, {.text = "b", .weight = 0.5}, {.text = "c", .weight = 2}};
  check_mixed({{{.cp = 2}, {1, 2}, {}}, {{.cfg = 2}, {1, 1}, {2, 1}}}, request);
}

// Which steps are reused is one rank's word: the types round the changes differently.
TEST_CASE("a step cache over ranks of different types") {
  RequestConfig request = small_request();
  request.num_inference_steps = 8;
  const SmallModel wide, narrow(at::kBFloat16);
  const double threshold = middle_threshold(wide, request.num_inference_steps);
  const Denoised one = denoise(wide, *make_self_communicator(), {}, request, {.step_cache = threshold});
  for (const MeshShape& shape : {MeshShape{.cp = 2}, MeshShape{.cfg = 2}}) {
    on_ranks({2}, [&](Communicator& world) {
      const Case what{shape, {shape.cp, 1}, {}};
      const Denoised mine = denoise(world.rank() == 0 ? wide : narrow, world, what, request,
                                    {.step_cache = threshold, .wire = at::kBFloat16});
      check(mine.reused == one.reused && mine.reused > 0,
            fmt::format("{} steps reused, by one rank {}", mine.reused, one.reused));
      check_close(mine.latents, one.latents, 2e-2, what.text());
      check_all_alike(world, mine.latents, what.text());
    });
  }
}

TEST_CASE("ranks of different types have no gradients") {
  on_ranks({2}, [](Communicator& world) {
    const AttentionStrategy attention(world, {2, 1});
    const ParallelSequence sequence(world, *attention, attention.divide(6), at::kBFloat16);
    const at::Tensor x = at::ones({1, 3, 2, 4});
    const auto refusal = caught([&] { sequence.self_attention({x, x, x}, sdpa_kernel()); });
    check(refusal.has("no gradients"), "gradients are not refused: " + refusal.message);
  });
}
