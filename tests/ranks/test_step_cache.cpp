// Denoising with a step cache over n ranks against one rank.
#include "core/rng.h"
#include "models/pipeline.h"
#include "parallel/comm/self.h"
#include "tests/support/rank_test.h"
#include "tests/support/small_model.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

// Of the random model's steps this leaves some computed and some reused, besides the first and the last.
constexpr int64_t steps = 8;

struct Denoised {
  at::Tensor latents;
  int64_t reused = 0;
};

Denoised denoise(const SmallModel& model, Communicator& world, MeshShape shape, double threshold) {
  const at::Device cpu(at::kCPU);
  ProcessMesh mesh(world, shape, group_maker("mpi", cpu));
  const AttentionStrategy attention(mesh.cp(), {shape.cp, 1});
  RequestConfig request;
  request.width = 48, request.height = 80, request.num_frames = 9;  // latents [16, 3, 10, 6], 45 tokens
  request.num_inference_steps = steps, request.max_sequence_length = 20;
  request.seed = mesh.coord().dp;
  const auto schedule = model.checkpoint().schedule({}, steps);
  Denoised made;
  made.latents =
      DenoiseLoop(model.denoiser(), mesh, attention, cpu, {.step_cache = threshold})
          .run(request, model.text(), *schedule, {.latents = starting_noise(request, 0, model.denoiser())},
               [&](const DenoiseState& state) { made.reused = state.reused; });
  return made;
}

// Between the smallest and the largest change of a step.
double middle_threshold(const SmallModel& model) {
  const auto schedule = model.checkpoint().schedule({}, steps);
  std::vector<float> timesteps;
  for (int64_t i = 0; i < steps; ++i) timesteps.push_back(float(schedule->timestep(i)));
  const auto changes = model.denoiser().modulation_changes(at::tensor(timesteps));
  double sum = 0;
  for (const double change : changes) sum += change;
  return 1.5 * sum / double(changes.size());
}

void check_same(const std::vector<MeshShape>& shapes) {
  const SmallModel model;
  const double threshold = middle_threshold(model);
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
  check_same({{.cp = 2}, {.cfg = 2}});
}
TEST_CASE("a step cache over 3 and over 4 ranks") {
  check_same({{.cp = 3}, {.cfg = 2, .cp = 2}});
}

TEST_CASE("replicas have step caches of their own") {
  const SmallModel model;
  const double threshold = middle_threshold(model);
  const Denoised one = denoise(model, *make_self_communicator(), {}, threshold);
  on_ranks({2}, [&](Communicator& world) {
    const Denoised mine = denoise(model, world, {.dp = 2}, threshold);
    const double error = relative_error(mine.latents, one.latents);
    check(mine.reused == one.reused, "the decisions do not depend on the noise");
    check(world.rank() == 0 ? error <= 1e-5 : error > 0.1, fmt::format("seed {}: {}", world.rank(), error));
  });
}
