// Which steps a step cache answers for, and what a run with one gives.
#include <limits>

#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/common/step_cache.h"
#include "models/pipeline.h"
#include "parallel/comm/self.h"
#include "parallel/plan_costs.h"
#include "tests/support/catch.h"
#include "tests/support/plan_cases.h"
#include "tests/support/rank_test.h"
#include "tests/support/scratch.h"
#include "tests/support/small_model.h"

using namespace frameshard;
using namespace frameshard::test;
using frameshard::testing::relative_error;
using frameshard::testing::SmallModel;

namespace {

constexpr int64_t steps = 6;

// As words: c computed, r reused.
std::string decisions(const std::vector<double>& changes, double threshold) {
  std::string text;
  for (const bool reuse : steps_to_reuse(changes, threshold)) text += reuse ? 'r' : 'c';
  return text;
}

struct Made {
  at::Tensor latents;
  int64_t reused = 0;
  DenoiseState half;  // after `steps` / 2
  std::vector<at::Tensor> history;
};

RequestConfig request() {
  RequestConfig made;
  made.width = 48, made.height = 80, made.num_frames = 9;  // latents [16, 3, 10, 6]
  made.num_inference_steps = steps, made.max_sequence_length = 20;
  return made;
}

// From the noise, or from where another run was at half of its steps.
Made denoise(const SmallModel& model, double threshold, const Made* from = nullptr) {
  const CommPtr alone = make_self_communicator();
  ProcessMesh mesh(*alone, {}, group_maker("mpi", at::Device(at::kCPU)));
  const AttentionStrategy attention(mesh.cp(), {});
  const auto schedule = model.checkpoint().schedule({}, steps);
  DenoiseState start{.latents = starting_noise(request(), 0, model.denoiser())};
  if (from) start = from->half, schedule->restore(from->history, start.steps);
  Made made;
  made.latents =
      DenoiseLoop(model.denoiser(), mesh, attention, at::Device(at::kCPU), {.step_cache = threshold})
          .run(request(), model.text(), *schedule, start, [&](const DenoiseState& state) {
            made.reused = state.reused;
            if (state.steps != steps / 2) return;
            made.half = {.latents = state.latents.clone(), .steps = state.steps};
            made.history = schedule->history();
          });
  return made;
}

}  // namespace

TEST_CASE("a step is reused while the changes since the last computed one stay below the threshold") {
  CHECK(decisions({0.4, 0.4, 0.4, 0.4, 0.4, 0.4}, 1) == "crrcrrc");
  CHECK(decisions({0.5, 0.5, 0.5, 0.5}, 1) == "crcrc");  // the sum must stay below it
  CHECK(decisions({0.1, 2, 0.1, 0.1}, 1) == "crcrc");
  CHECK(decisions({2, 2, 2}, 1) == "cccc");
}

TEST_CASE("the first and the last step are always computed") {
  CHECK(decisions({0, 0, 0, 0}, 10) == "crrrc");
  CHECK(decisions({0}, 10) == "cc");
  CHECK(decisions({}, 10) == "c");
}

TEST_CASE("nothing is reused at a threshold of 0, and where a change is not a number") {
  CHECK(decisions({0, 0, 0}, 0) == "cccc");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(decisions({nan, 0.1, 0.1, 0.1}, 1) == "ccrrc");
}

TEST_CASE("changes are those of the modulation from one timestep to the next") {
  const SmallModel model;
  const auto changes = model.denoiser().modulation_changes(at::tensor({900.0F, 900.0F, 500.0F, 100.0F}));
  REQUIRE(changes.size() == 3);
  CHECK(changes[0] == 0);
  CHECK(changes[1] > 0);
  CHECK(changes[2] > 0);
  CHECK(model.denoiser().modulation_changes(at::tensor({900.0F})).empty());
}

TEST_CASE("a threshold that no change stays below gives the bits of a run without a cache") {
  const SmallModel model;
  const Made plain = denoise(model, 0), tiny = denoise(model, 1e-12);
  CHECK(tiny.reused == 0);
  CHECK(at::equal(tiny.latents, plain.latents));
}

TEST_CASE("a threshold that all changes stay below leaves the first and the last step") {
  const SmallModel model;
  const Made plain = denoise(model, 0), huge = denoise(model, 10);
  CHECK(plain.reused == 0);
  CHECK(huge.reused == steps - 2);
  const double error = relative_error(huge.latents, plain.latents);
  CHECK(error > 1e-6);
  CHECK(error < 0.5);
}

TEST_CASE("a reused step adds what the blocks did at the last computed one") {
  const SmallModel model;
  const c10::NoGradGuard no_grad;
  const CommPtr alone = make_self_communicator();
  const AttentionPtr attention = make_local_attention();
  const ParallelSequence sequence(*alone, *attention, Partition::even(45, 1));
  const TextContext text = model.denoiser().prepare(model.text().cond[0]);
  const at::Tensor latents = initial_noise({1, 16, 3, 10, 6}, 5), timestep = at::full({1}, 423.0);
  StepCache cache;
  const at::Tensor plain = model.denoiser().predict(latents, timestep, text, sequence);
  CHECK(at::equal(model.denoiser().predict(latents, timestep, text, sequence, &cache), plain));
  CHECK(cache.residual.sizes() == at::IntArrayRef({1, 45, 48}));
  cache.reuse = true;
  const at::Tensor residual = cache.residual.clone();
  CHECK(relative_error(model.denoiser().predict(latents, timestep, text, sequence, &cache), plain) < 1e-5);
  CHECK(at::equal(cache.residual, residual));
  cache.residual.zero_();
  CHECK(relative_error(model.denoiser().predict(latents, timestep, text, sequence, &cache), plain) > 1e-3);
}

TEST_CASE("a run that goes on computes its first step") {
  const SmallModel model;
  const Made whole = denoise(model, 0), rest = denoise(model, 10, &whole);
  CHECK(rest.reused == steps / 2 - 2);
  const Made exact = denoise(model, 1e-12, &whole);
  CHECK(at::equal(exact.latents, whole.latents));
}

TEST_CASE("the plan counts one row of tokens a branch for the cache") {
  RunConfig config = config_with(Fixed{.cp = 2, .cfg = 1, .dp = 1});
  const ModelFacts model = facts_1_3b();
  const PlanMachine machine = cuda_machine(2);
  const RunPlan plain = make_plan(config, model, machine);
  config.lossy.step_cache = 0.1;
  const RunPlan cached = make_plan(config, model, machine);
  const int64_t rows = (plain.grid.total() + 1) / 2;
  CHECK(cached.costs.denoise_bytes - plain.costs.denoise_bytes ==
        2 * rows * model.width() * model.element_bytes);
}
