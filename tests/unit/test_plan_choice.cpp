// Which mesh is chosen, and why: by predicted time, over nodes, for one video and for many.
#include <set>

#include <fmt/ranges.h>

#include "parallel/hardware.h"
#include "parallel/plan_costs.h"
#include "parallel/plan_json.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/plan_cases.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

PlanMachine cluster(int world, int ranks_per_node, const std::string& device = "h200",
                    const std::string& network = "ndr400") {
  PlanMachine machine = cuda_machine(world);
  machine.ranks_per_node = ranks_per_node, machine.hardware = device, machine.interconnect = network;
  return machine;
}

RunConfig large_videos(int requests = 1) {
  RunConfig config = config_with(requests);
  for (RequestConfig* request : requests_of(config)) request->width = 1280, request->height = 720;
  return config;
}

// dp, cfg, ulysses, ring
using Shape = std::vector<int>;
Shape chosen(const RunConfig& config, const PlanMachine& machine, const ModelFacts& model = facts_14b()) {
  const RunPlan plan = make_plan(config, model, machine);
  return {plan.mesh.dp, plan.mesh.cfg, plan.attention.ulysses, plan.attention.ring};
}
Shape shape_of(const MeshChoice& choice) {
  return {choice.split.mesh.dp, choice.split.mesh.cfg, choice.split.attention.ulysses,
          choice.split.attention.ring};
}

}  // namespace

TEST_CASE("one video on nodes of 8 GPUs: both branches, all-to-all inside a node, a ring between nodes") {
  CHECK(chosen(large_videos(), cluster(8, 8)) == Shape{1, 2, 4, 1});
  CHECK(chosen(large_videos(), cluster(16, 8)) == Shape{1, 2, 8, 1});
  CHECK(chosen(large_videos(), cluster(32, 8)) == Shape{1, 2, 8, 2});
  CHECK(chosen(large_videos(), cluster(64, 8)) == Shape{1, 2, 8, 4});
  CHECK(chosen(large_videos(), cluster(64, 4)) == Shape{1, 2, 4, 8});
}

TEST_CASE("replicas are made where many videos are done sooner with them, not where it is all the same") {
  CHECK(chosen(large_videos(4), cluster(8, 8)) == Shape{1, 2, 4, 1});
  CHECK(chosen(large_videos(64), cluster(16, 8)) == Shape{1, 2, 8, 1});
  CHECK(chosen(large_videos(64), cluster(64, 8)) == Shape{4, 2, 8, 1});
  // Over a slow network the sequence stays whole; guidance exchanges so little that it is shared all the
  // same.
  CHECK(chosen(large_videos(4), cluster(4, 1, "h200", "ethernet10")) == Shape{2, 2, 1, 1});
  CHECK(chosen(large_videos(4), cluster(4, 4)) == Shape{1, 2, 2, 1});
  // 5 videos on 4 replicas leave 3 of them waiting in the second round.
  CHECK(chosen(large_videos(5), cluster(4, 4)) == Shape{1, 2, 2, 1});
}

TEST_CASE("sizes that are fixed stay, the others follow from them") {
  RunConfig config = large_videos(8);
  config.infer.diffusion.dp_size = {2};
  CHECK(chosen(config, cluster(32, 8)) == Shape{2, 2, 8, 1});
  config.infer.diffusion = {.cp_size = {16}};
  config.infer.attention.ulysses_size = {16};  // over two nodes, as asked for
  CHECK(chosen(config, cluster(32, 8)) == Shape{1, 2, 16, 1});
  config.infer.diffusion = {}, config.infer.attention.ulysses_size = {1},
  config.infer.attention.ring_size = {4};
  CHECK(chosen(config, cluster(8, 8)) == Shape{1, 2, 1, 4});
}

TEST_CASE("replicas take videos of mixed sizes as they become free") {
  Workload work;
  work.classes = {{.grid = {}, .text_tokens = 0, .steps = 1, .conditionings = 1, .videos = 1},
                  {.grid = {}, .text_tokens = 0, .steps = 1, .conditionings = 1, .videos = 100}};
  work.videos = 101;
  CHECK(seconds_for_all(work, {100, 1}, 1) == 200);
  CHECK(seconds_for_all(work, {100, 1}, 2) == 100);
  CHECK(seconds_for_all(work, {100, 1}, 101) == 100);
  work.classes[0].videos = 3, work.classes[1].videos = 2, work.videos = 5;
  CHECK(seconds_for_all(work, {4, 3}, 2) == 10);  // 4+4 and 4+3+3
  work.classes.resize(1), work.classes[0].videos = 7, work.videos = 7;
  CHECK(seconds_for_all(work, {2}, 3) == 6);
  work.classes[0].videos = 1'000'000, work.videos = 1'000'000;
  CHECK(seconds_for_all(work, {2}, 3) == 666668);
}

TEST_CASE("every split of the ranks is there once, the documented order holds") {
  for (const int world : {1, 2, 6, 12, 30, 64}) {
    const MeshChoices choices = rank_meshes(large_videos(4), facts_14b(), cluster(world, 8));
    std::set<Shape> shapes;
    for (const MeshChoice& choice : choices.meshes) {
      const MeshShape& mesh = choice.split.mesh;
      const AttentionShape& attention = choice.split.attention;
      CHECK(mesh.ranks() == world);
      CHECK(attention.ulysses * attention.ring == mesh.cp);
      CHECK_FALSE((spans_nodes(attention.ulysses, cluster(world, 8)) || attention.ulysses > 40));
      CHECK((choice.idle > 0) == (mesh.dp > 4));
      CHECK((choice.why_not.empty()) == (&choice == &choices.meshes.front()));
      shapes.insert(shape_of(choice));
    }
    CHECK(shapes.size() == choices.meshes.size());
    auto rank = [](const MeshChoice& c) { return std::pair(c.idle > 0, !c.fits); };
    for (size_t i = 1; i < choices.meshes.size(); ++i) {
      CHECK(rank(choices.meshes[i - 1]) <= rank(choices.meshes[i]));
    }
  }
}

TEST_CASE("all meshes of a small world, with what speaks against them") {
  const MeshChoices choices = rank_meshes(config_with(2), facts_1_3b(), cuda_machine(4));
  std::set<std::string> lines;
  for (const MeshChoice& choice : choices.meshes) {
    lines.insert(fmt::format("{}: {}", fmt::join(shape_of(choice), " "), choice.why_not));
  }
  CHECK(lines == std::set<std::string>{"1 2 2 1: ", "1 2 1 2: longer ring", "1 1 4 1: guidance not shared",
                                       "1 1 2 2: guidance not shared", "1 1 1 4: guidance not shared",
                                       "2 2 1 1: first video later", "2 1 2 1: first video later",
                                       "2 1 1 2: first video later", "4 1 1 1: 2 idle replicas"});
  CHECK(choices.meshes.back().idle == 2);
}

TEST_CASE("between nodes a ring is what is said against a mesh") {
  const MeshChoices choices = rank_meshes(large_videos(), facts_14b(), cluster(16, 8));
  const auto ring = std::find_if(choices.meshes.begin(), choices.meshes.end(), [](const MeshChoice& choice) {
    return shape_of(choice) == Shape{1, 1, 8, 2};
  });
  REQUIRE(ring != choices.meshes.end());
  CHECK(ring->why_not == "ring between nodes");
}

TEST_CASE("a plan for 1,024 ranks compares few meshes, and requests of one size once") {
  RunConfig config = large_videos(1000);
  for (size_t i = 0; i < config.requests.size(); ++i) {
    config.requests[i].num_frames = 41 + 20 * int64_t(i % 3), config.requests[i].prompt = std::to_string(i);
  }
  const MeshChoices choices = rank_meshes(config, facts_14b(), cluster(1024, 8));
  // dp = 1 .. 1024 with one or two branches; all-to-all over 1, 2, 4 or 8 ranks of a node.
  CHECK(choices.meshes.size() == 11 + 10 + 10 + 9 + 9 + 8 + 8 + 7);
  CHECK(choices.evaluations == 3 * int64_t(choices.meshes.size()));
  int64_t most = 0;
  for (int world = 1; world <= 1024; ++world) {
    most = std::max(most, rank_meshes(large_videos(), facts_14b(), cluster(world, 8)).evaluations);
  }
  CHECK(most <= 160);
}

TEST_CASE("a plan is compared with the memory that is there") {
  PlanMachine machine = cluster(2, 8, "rtx4090");
  machine.memory_bytes = device_kind("rtx4090").memory_bytes;
  ModelFacts model = facts_14b();
  CHECK(make_plan(config_with(), model, machine).warnings.empty());
  model.denoiser_bytes = int64_t(28) << 30;
  const RunPlan plan = make_plan(config_with(), model, machine);
  REQUIRE(plan.warnings.size() == 1);
  CHECK(plan.warnings[0].find("a rank does not fit into the device's 23.00 GiB") != std::string::npos);
  // Ranks on CPUs share a node's memory; a mesh that fits is taken before a faster one that does not.
  PlanMachine cpu{.world = 4};
  cpu.memory_bytes = int64_t(1) << 50;
  const auto choices = rank_meshes(large_videos(), model, cpu);
  const RankCosts& costs = choices.meshes.front().costs;  // one of the four decodes, and has the VAE alone
  cpu.memory_bytes = 4 * costs.denoise_bytes - 3 * costs.decoder_bytes;
  CHECK(rank_meshes(large_videos(), model, cpu).meshes.front().fits);
  cpu.memory_bytes -= 1;
  CHECK(shape_of(rank_meshes(large_videos(), model, cpu).meshes.front()) != shape_of(choices.meshes.front()));
}

TEST_CASE("ranks that gain nothing are said") {
  RunConfig config = config_with();
  config.request->width = config.request->height = 32, config.request->num_frames = 5;  // 8 tokens
  config.infer.diffusion.cp_size = {8};
  const RunPlan plan = make_plan(config, facts_1_3b(), cluster(8, 1, "h200", "ethernet10"));
  REQUIRE(plan.warnings.size() == 1);
  CHECK(plan.warnings[0].find("8 ranks are predicted to take") == 0);
  CHECK(plan.predicted.speedup < 1);
}

TEST_CASE("unknown hardware is refused with what is known") {
  const auto device = caught([] { device_kind("h300"); });
  CHECK(device.code == ExitCode::usage);
  CHECK(device.message == "--device is \"h300\"; known are cpu, cuda, h200, h100, b200, a100, l40s, rtx4090");
  const auto network = caught([] { interconnect("token-ring"); });
  CHECK(network.code == ExitCode::usage);
  CHECK(network.has("ethernet10, ethernet25, ethernet100, hdr200, ndr200, ndr400, none"));
}

TEST_CASE("a refusal names the nearest sizes that fit") {
  const auto refusal = [](Fixed sizes, int world, int requests = 1) {
    return caught([&] { make_plan(config_with(sizes, requests), facts_1_3b(), cuda_machine(world)); });
  };
  CHECK(refusal({.cp = 3, .cfg = 2, .dp = 1}, 8)
            .has("dp*cfg*cp = 1*2*3 = 6 but 8 ranks were started; the nearest that fits: cfg 2 x cp 4 (set "
                 "infer.diffusion.cp_size=4), or start 6 ranks"));
  CHECK(refusal({.cp = 3}, 4).has("the nearest that fits: cfg 1 x cp 4 (set infer.diffusion.cp_size=4)"));
  CHECK(refusal({.cfg = 2}, 3).has("the nearest that fits: cfg 1 x cp 3 (set infer.diffusion.cfg_size=1)"));
  CHECK(refusal({.dp = 3}, 4, 4)
            .has("the nearest that fits: dp 4 x cfg 1 x cp 1 (set infer.diffusion.dp_size=4)"));
  CHECK(refusal({.cp = 4, .ulysses = 3}, 4)
            .has("the nearest that fits: infer.attention.ulysses_size=4 infer.attention.ring_size=1"));
  RunConfig config = config_with({.cp = 8});
  config.request->width = 32, config.request->height = 32, config.request->num_frames = 1;  // 4 tokens
  const auto small = caught([&] { make_plan(config, facts_1_3b(), cuda_machine(8)); });
  CHECK(small.code == ExitCode::config);
  CHECK(small.has("cp_size 8 is more than the 4 tokens of the smallest request"));
  CHECK(small.has("the nearest that fits: cfg 2 x cp 4 (set infer.diffusion.cp_size=4)"));
  config.infer.diffusion = {};
  CHECK(caught([&] {
          make_plan(config, facts_1_3b(), cuda_machine(11));
        }).has("the nearest number of ranks that fits is 8"));
}
