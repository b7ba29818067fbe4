// Denoising with a step cache over n ranks against one rank.
#include "tests/support/small_denoise.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

// Of the random model's steps this leaves some computed and some reused, besides the first and the last.
constexpr int64_t steps = 8;

Denoised denoise(const SmallModel& model, Communicator& world, const MeshShape& shape, double threshold,
                 int64_t seed = 0) {
  RequestConfig request = small_request();
  request.num_inference_steps = steps, request.seed = seed;
  return denoise(model, world, {shape, {shape.cp, 1}, {}}, request, {.step_cache = threshold});
}

void check_cached(const std::vector<MeshShape>& shapes) {
  const SmallModel model;
  const double threshold = middle_threshold(model, steps);
  const Denoised one = denoise(model, *make_self_communicator(), {}, threshold);
  REQUIRE(one.reused > 0);
  REQUIRE(one.reused < steps - 2);
  REQUIRE(relative_error(denoise(model, *make_self_communicator(), {}, 0).latents, one.latents) > 1e-4);
  for (const MeshShape& shape : shapes) {
    on_ranks({shape.ranks()}, [&](Communicator& world) {
      const Denoised mine = denoise(model, world, shape, threshold);
      check(mine.reused == one.reused, fmt::format("{} steps reused, not {}", mine.reused, one.reused));
      check_close(mine.latents, one.latents, 1e-5,
                  fmt::format("cfg {} x cp {} with a step cache", shape.cfg, shape.cp));
    });
  }
}

}  // namespace

TEST_CASE("a step cache over 2 ranks") {
  check_cached({{.cp = 2}, {.cfg = 2}});
}
TEST_CASE("a step cache over 3 and over 4 ranks") {
  check_cached({{.cp = 3}, {.cfg = 2, .cp = 2}});
}

TEST_CASE("replicas have step caches of their own") {
  const SmallModel model;
  const double threshold = middle_threshold(model, steps);
  const Denoised one = denoise(model, *make_self_communicator(), {}, threshold);
  on_ranks({2}, [&](Communicator& world) {
    const Denoised mine = denoise(model, world, {.dp = 2}, threshold, world.rank());
    const double error = relative_error(mine.latents, one.latents);
    check(mine.reused == one.reused, "the decisions do not depend on the noise");
    check(world.rank() == 0 ? error <= 1e-5 : error > 0.1, fmt::format("seed {}: {}", world.rank(), error));
  });
}
