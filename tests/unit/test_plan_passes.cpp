// The passes of a step: how many, and who computes them.
#include "parallel/plan_costs.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/plan_cases.h"

using namespace frameshard;
using namespace frameshard::test;

TEST_CASE("a replica that nobody computes is refused, a group of it has no passes") {
  PlanMachine machine = cuda_machine(4);
  machine.speeds = {0, 0, 1, 1};
  RunConfig halves = config_with(2);
  halves.infer.diffusion = {.cp_size = {2}, .cfg_size = {1}, .dp_size = {2}};
  const Caught refused = caught([&] { make_plan(halves, facts_1_3b(), machine); });
  CHECK(refused.code == ExitCode::config);
  CHECK(refused.has("all ranks of a replica have weight 0"));
  halves.infer.diffusion = {.cp_size = {2}, .cfg_size = {2}, .dp_size = {1}};
  const RunPlan plan = make_plan(halves, facts_1_3b(), machine);
  CHECK(pass_counts(plan.split(), video_class(plan.largest, facts_1_3b()), 0) == std::vector<int64_t>{0, 2});
  CHECK(make_plan(config_with({.cp = 4}), facts_1_3b(), machine).tokens.size(0) == 0);
}

TEST_CASE("passes of several prompts and windows, and who computes them") {
  RunConfig config = config_with();
  config.request->prompt = "", config.request->prompts = {{.text = "a"}, {.text = "b"}, {.text = "c"}};
  config.infer.diffusion = {.cp_size = {1}, .cfg_size = {2}, .dp_size = {1}};
  PlanMachine machine = cuda_machine(2);
  const RunPlan two = make_plan(config, facts_1_3b(), machine);
  CHECK(two.passes == std::vector<std::string>{"cfg 0: prompt 1, prompt 3", "cfg 1: prompt 2, negative"});
  machine.speeds = {3, 1};
  CHECK(make_plan(config, facts_1_3b(), machine).passes ==
        std::vector<std::string>{"cfg 0: prompt 1, prompt 2, negative", "cfg 1: prompt 3"});
  config.infer.diffusion.cfg_size = {4};
  CHECK(make_plan(config, facts_1_3b(), cuda_machine(4)).predicted.speedup > 3.8);
  config.infer.diffusion.cfg_size = {5};
  CHECK(caught([&] {
          make_plan(config, facts_1_3b(), cuda_machine(5));
        }).has("cfg_size 5 is more than the 4 passes"));

  RunConfig windows = config_with();
  windows.request->num_frames = 161, windows.request->context = {.window = 81, .overlap = 16};
  const VideoClass video = video_class(*windows.request, facts_1_3b());
  CHECK((video.windows == 3 && video.passes() == 6 && video.tokens() == 32760));
  const RunPlan alone = make_plan(windows, facts_1_3b(), cuda_machine(1));
  CHECK(alone.costs.operations ==
        Approx(3 * make_plan(config_with(), facts_1_3b(), cuda_machine(1)).costs.operations));
  CHECK(alone.passes ==
        std::vector<std::string>{"prompt 1 of window 1, negative of window 1, prompt 1 of window 2, "
                                 "negative of window 2, prompt 1 of window 3, negative of window 3"});
  // Beyond the model's positions a video is possible by windows alone.
  windows.request->num_frames = 4097, windows.request->context->window = 4097;
  ModelFacts limited = facts_1_3b();
  limited.max_positions = 1024;
  CHECK(caught([&] { make_plan(windows, limited, cuda_machine(1)); }).has("positions along an axis"));
  windows.request->context->window = 81;
  CHECK_NOTHROW(make_plan(windows, limited, cuda_machine(1)));
}
