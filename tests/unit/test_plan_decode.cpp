// What the plan says about decoding: who does it, and when in tiles.
#include "core/host.h"
#include "parallel/comm/nccl.h"
#include "parallel/plan_costs.h"
#include "parallel/plan_json.h"
#include "tests/support/catch.h"
#include "tests/support/plan_cases.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

RunConfig large_video(const std::string& tiling) {
  RunConfig config = config_with();
  config.request->width = 1280, config.request->height = 720;
  config.lossy.vae_tiling = tiling;
  return config;
}

PlanMachine with_memory(PlanMachine machine, int64_t bytes) {
  machine.memory_bytes = bytes;
  return machine;
}

// A GPU whose ranks can have so much.
PlanMachine leaving(PlanMachine gpu, int64_t bytes) {
  return with_memory(std::move(gpu), bytes + gpu_overhead_bytes);
}

RunPlan plan(const RunConfig& config, const PlanMachine& machine) {
  return make_plan(config, facts_1_3b(), machine);
}

int64_t tiles(const RunPlan& plan) {
  return plan.decoding.tiles(plan.largest.height, plan.largest.width);
}

bool warns(const RunPlan& plan, const std::string& text) {
  return std::any_of(plan.warnings.begin(), plan.warnings.end(),
                     [&](auto& warning) { return warning.find(text) != std::string::npos; });
}

}  // namespace

TEST_CASE("what NCCL registers for exchanges is not the ranks'") {
  const int64_t all = int64_t{8} << 30;
  PlanMachine two = with_memory(cuda_machine(2), all);
  CHECK(usable_memory(with_memory(cuda_machine(1), all)) == all - gpu_overhead_bytes);
  CHECK(usable_memory(two) == all - gpu_overhead_bytes - most_registered_bytes);
  two.backend = "mpi";
  CHECK(usable_memory(two) == all - gpu_overhead_bytes);
}

TEST_CASE("auto: tiles where the whole picture does not fit, to the byte") {
  const PlanMachine machine = cuda_machine(1);
  const int64_t whole = plan(large_video("off"), machine).costs.decode_bytes;
  const RunPlan fits = plan(large_video("auto"), leaving(machine, whole));
  CHECK(tiles(fits) == 0);
  CHECK(fits.costs.decode_bytes == whole);
  CHECK_FALSE(warns(fits, "decoding in tiles"));
  const RunPlan does_not = plan(large_video("auto"), leaving(machine, whole - 1));
  CHECK(tiles(does_not) == 28);
  CHECK(does_not.costs.decode_bytes < whole / 2);
  CHECK(warns(does_not, "decoding in tiles: a whole picture of 1280x720 takes"));
  CHECK(warns(does_not, "too much for the device's " + format_bytes(double(whole - 1 + gpu_overhead_bytes))));
  CHECK(warns(does_not, "(lossy.vae_tiling=off to refuse)"));
  CHECK(tiles(plan(large_video("auto"), machine)) == 0);  // memory that is not known
}

TEST_CASE("off and on are obeyed") {
  const PlanMachine small = with_memory(cuda_machine(1), int64_t(14) << 30);
  const RunPlan off = plan(large_video("off"), small);
  CHECK(tiles(off) == 0);
  CHECK(warns(off, "does not fit into the device's 14.00 GiB"));
  CHECK_FALSE(warns(plan(large_video("auto"), small), "does not fit"));
  // Where not even the weights fit, tiles do not help, and nothing is said about them.
  const RunPlan hopeless = plan(large_video("auto"), with_memory(cuda_machine(1), int64_t(1) << 30));
  CHECK(tiles(hopeless) == 0);
  CHECK(warns(hopeless, "does not fit into the device's 1.00 GiB"));
  const RunPlan on = plan(large_video("on"), with_memory(cuda_machine(1), int64_t(1) << 50));
  CHECK(tiles(on) == 28);
  CHECK_FALSE(warns(on, "tiles"));
  REQUIRE(on.reasons.size() == 1);
  CHECK(on.reasons[0] == "decoding in tiles, whose seams are blended: lossy.vae_tiling is on");
  RunConfig small_picture = large_video("on");
  small_picture.request->width = small_picture.request->height = 256;
  CHECK(tiles(plan(small_picture, small)) == 0);  // one tile
  small_picture.request->width = 272;
  CHECK(tiles(plan(small_picture, small)) == 4);
}

TEST_CASE("each video has its own answer, whatever else is in the list") {
  RunConfig config = large_video("auto");
  const int64_t whole = plan(large_video("off"), cuda_machine(1)).costs.decode_bytes;
  config.requests = {*config.request, *config.request};
  config.requests[1].width = config.requests[1].height = 480;
  config.request.reset();
  const RunPlan mixed = plan(config, leaving(cuda_machine(1), whole - 1));
  CHECK(mixed.decoding.in_tiles(720, 1280));
  CHECK_FALSE(mixed.decoding.in_tiles(480, 480));
  CHECK_FALSE(mixed.decoding.in_tiles(704, 1280));
}

TEST_CASE("ranks that decode bands together need less memory, and tiles later") {
  const RunPlan one = plan(large_video("off"), cuda_machine(1)),
                four = plan(large_video("off"), cuda_machine(4));
  CHECK(four.decoding.ranks == 4);
  CHECK(four.decoding.band(720, 1280) == 1280 * (180 + 32));
  CHECK(four.costs.decode_bytes < one.costs.decode_bytes);
  const int64_t memory = one.costs.decode_bytes - 1;
  CHECK(tiles(plan(large_video("auto"), leaving(cuda_machine(1), memory))) == 28);
  CHECK(tiles(plan(large_video("auto"), leaving(cuda_machine(4), memory))) == 0);
}

TEST_CASE("on CPUs the ranks of a node share its memory, and tiles take some of the host's") {
  PlanMachine cpu{.world = 2};
  const RunPlan whole = plan(large_video("off"), cpu);
  const int64_t needed = whole.costs.decode_bytes + whole.costs.weight_bytes;  // and the other rank's
  CHECK(tiles(plan(large_video("auto"), with_memory(cpu, needed))) == 0);
  const RunPlan tiled = plan(large_video("auto"), with_memory(cpu, needed - 1));
  CHECK(tiles(tiled) == 28);
  CHECK(warns(tiled, "too much for the node's"));
  // At least the video's bytes: 81 frames.
  CHECK(tiled.costs.decode_bytes > tiled.costs.weight_bytes + int64_t(81) * 1280 * 720 * 3);
  CHECK(tiled.costs.decode_bytes < whole.costs.decode_bytes / 2);
}

TEST_CASE("ranks of a node that decode at the same time need room for all of them") {
  PlanMachine cpu{.world = 2};
  RunConfig together = large_video("off");
  together.infer.vae_parallel_size = {2};
  const RunPlan whole = plan(together, cpu);
  CHECK(whole.costs.decoders == 2);
  const int64_t needed = 2 * whole.costs.decode_bytes;
  together.lossy.vae_tiling = "auto";
  CHECK(tiles(plan(together, with_memory(cpu, needed))) == 0);
  CHECK(tiles(plan(together, with_memory(cpu, needed - 2))) == 28);
}

TEST_CASE("the plan's text and JSON say how is decoded") {
  const auto text = [](const RunPlan& plan) { return describe(plan, facts_1_3b()); };
  CHECK(text(plan(large_video("off"), cuda_machine(1))).find("  decode ") == std::string::npos);
  CHECK(text(plan(large_video("off"), cuda_machine(4))).find("  decode    4 ranks together\n") !=
        std::string::npos);
  CHECK(text(plan(large_video("on"), cuda_machine(1))).find("  decode    in 28 tiles of 256x256\n") !=
        std::string::npos);
  const RunPlan both = plan(large_video("on"), cuda_machine(4));
  CHECK(text(both).find("  decode    in 28 tiles of 256x256, 4 ranks together\n") != std::string::npos);
  const Json json = plan_json(both, {}, facts_1_3b());
  CHECK(json["decode"] == Json({{"ranks", 4}, {"tiles", 28}}));
}
