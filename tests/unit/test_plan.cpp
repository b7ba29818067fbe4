#include <cmath>

#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/plan_cases.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

using Sizes = std::vector<int>;

// A request of this many tokens; 32760 are the default video's.
void set_size(RequestConfig& request, int64_t tokens) {
  if (tokens != 32760) request.width = 16 * tokens, request.height = 16, request.num_frames = 1;
}

// The mesh on GPUs of one node.
RunPlan plan_of(RunConfig config, int world, bool guided, int64_t tokens) {
  for (RequestConfig* request : requests_of(config)) {
    set_size(*request, tokens);
    if (!guided) request->guidance_scale = 1;
  }
  return make_plan(config, facts_1_3b(), cuda_machine(world));
}
Sizes solved(const RunConfig& config, int world, bool guided = true, int64_t tokens = 32760) {
  const MeshShape mesh = plan_of(config, world, guided, tokens).mesh;
  return {mesh.dp, mesh.cfg, mesh.cp};
}

// 78, with these words.
void check_misfit(const RunConfig& config, int world, bool guided, const std::vector<std::string>& words) {
  const auto error = caught([&] { plan_of(config, world, guided, 32760); });
  INFO("message: " << error.message);
  CHECK(error.code == ExitCode::config);
  for (const std::string& part : words) CHECK(error.has(part));
}

Sizes attention(int cp, int64_t heads, int ranks_per_node = 0, Fixed wanted = {}) {
  wanted.cp = cp, wanted.cfg = 1;
  ModelFacts model = facts_1_3b();
  model.heads = heads;
  PlanMachine machine = cuda_machine(cp);
  machine.ranks_per_node = ranks_per_node;
  const AttentionShape shape = make_plan(config_with(wanted), model, machine).attention;
  return {shape.ulysses, shape.ring};
}

}  // namespace

TEST_CASE("guidance takes the first factor of 2, the sequence the rest") {
  CHECK(solved(config_with(), 1) == Sizes{1, 1, 1});
  CHECK(solved(config_with(), 2) == Sizes{1, 2, 1});
  CHECK(solved(config_with(), 3) == Sizes{1, 1, 3});
  CHECK(solved(config_with(), 4) == Sizes{1, 2, 2});
  CHECK(solved(config_with(), 5) == Sizes{1, 1, 5});
  CHECK(solved(config_with(), 6) == Sizes{1, 2, 3});
  CHECK(solved(config_with(), 7) == Sizes{1, 1, 7});
  CHECK(solved(config_with(), 8) == Sizes{1, 2, 4});
}

TEST_CASE("without guidance there is no branch to give away") {
  for (int world = 1; world <= 8; ++world) CHECK(solved(config_with(), world, false) == Sizes{1, 1, world});
}

TEST_CASE("fixed sizes are kept") {
  CHECK(solved(config_with({.cp = 4}), 4) == Sizes{1, 1, 4});
  CHECK(solved(config_with({.cp = 2}), 4) == Sizes{1, 2, 2});
  CHECK(solved(config_with({.cfg = 1}), 4) == Sizes{1, 1, 4});
  CHECK(solved(config_with({.cfg = 2}), 6) == Sizes{1, 2, 3});
  CHECK(solved(config_with({.cp = 2, .cfg = 2, .dp = 2}, 2), 8) == Sizes{2, 2, 2});
  CHECK(solved(config_with({.dp = 2}, 2), 4) == Sizes{2, 2, 1});
  CHECK(solved(config_with({.dp = 2}, 2), 8) == Sizes{2, 2, 2});
  CHECK(solved(config_with({.dp = 3}, 3), 6, false) == Sizes{3, 1, 2});
}

TEST_CASE("replicas take what fixed sizes leave, as far as there are videos for them") {
  CHECK(solved(config_with({.cp = 1}, 4), 8) == Sizes{4, 2, 1});
  CHECK(solved(config_with({.cp = 1, .cfg = 1}, 5), 4) == Sizes{4, 1, 1});
  CHECK(solved(config_with(4), 4) ==
        Sizes{1, 2, 2});  // nothing fixed: requests alone are no reason for replicas
  check_misfit(config_with({.cp = 1}, 3), 8, true, {"1*2*1 = 2 but 8 ranks were started"});
  RunConfig batch = config_with({.cp = 1});
  batch.request->batch_size = 4;
  CHECK(video_count(batch) == 4);
  CHECK(solved(batch, 8) == Sizes{4, 2, 1});
}

TEST_CASE("sizes that do not fit are refused, with those that do") {
  check_misfit(config_with({.cp = 3}), 4, true,
               {"dp*cfg*cp = 1*1*3 = 3 but 4 ranks were started", "start 3 ranks", "infer.diffusion.cp_size",
                "sizes that fit 4: dp 1 x cfg 1 x cp 4; dp 1 x cfg 2 x cp 2; dp 2 x cfg 1 x cp 2; dp 2 x cfg "
                "2 x cp 1; "
                "dp 4 x cfg 1 x cp 1"});
  check_misfit(config_with({.cp = 2, .cfg = 2}), 3, true, {"1*2*2 = 4 but 3 ranks", "start 4 ranks"});
  check_misfit(config_with({.cp = 2, .cfg = 2, .dp = 1}), 8, true, {"= 4 but 8 ranks"});
  check_misfit(config_with({.cp = 2}), 1, false, {"= 2 but 1 rank was started", "dp 1 x cfg 1 x cp 1"});
  const auto off = caught([] { solved(config_with({.cp = 3}), 4, false, 100); });
  CHECK_FALSE(off.has("cfg 2"));
}

TEST_CASE("more parts than tokens are refused") {
  CHECK(solved(config_with(), 3, true, 3) == Sizes{1, 1, 3});
  CHECK(solved(config_with(), 4, true, 2) == Sizes{1, 2, 2});
  const auto error = caught([] { solved(config_with(), 5, true, 4); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has("cp_size 5 is more than the 4 tokens"));
}

TEST_CASE("Ulysses takes as many ranks as there are heads and places in a node, a ring the rest") {
  CHECK(attention(1, 12) == Sizes{1, 1});
  CHECK(attention(4, 12) == Sizes{4, 1});
  CHECK(attention(3, 40) == Sizes{3, 1});  // heads need not divide
  CHECK(attention(7, 12) == Sizes{7, 1});
  CHECK(attention(4, 2) == Sizes{2, 2});
  // 4 heads over 3 ranks would give one of them half as much again to do: a ring of 3 between pairs is less.
  CHECK(attention(6, 4) == Sizes{2, 3});
  CHECK(attention(5, 3) == Sizes{1, 5});
  CHECK(attention(16, 40, 8) == Sizes{8, 2});
  CHECK(attention(16, 12, 4) == Sizes{4, 4});
  CHECK(attention(8, 40, 8) == Sizes{8, 1});
}

TEST_CASE("a Ulysses group never spans nodes") {
  std::vector<std::string> spanning;
  for (int node : {1, 2, 3, 4, 8}) {
    for (int cp = 1; cp <= 24; ++cp) {
      const int ulysses = attention(cp, 40, node)[0];
      bool spans = false;
      for (int first = 0; first < cp; first += ulysses) spans |= first / node != (first + ulysses - 1) / node;
      if (spans) spanning.push_back(fmt::format("ulysses {} of cp {} on nodes of {}", ulysses, cp, node));
    }
  }
  CHECK(spanning == std::vector<std::string>{});
}

TEST_CASE("fixed sizes of attention are kept") {
  CHECK(attention(4, 12, 0, {.ulysses = 2, .ring = 2}) == Sizes{2, 2});
  CHECK(attention(4, 12, 0, {.ulysses = 2}) == Sizes{2, 2});
  CHECK(attention(4, 12, 0, {.ring = 4}) == Sizes{1, 4});
  CHECK(attention(4, 12, 2, {.ulysses = 4}) == Sizes{4, 1});
  CHECK(attention(6, 2, 0, {.ulysses = 6}) == Sizes{6, 1});
  for (const Fixed& wanted :
       {Fixed{.ulysses = 3}, {.ring = 3}, {.ulysses = 2, .ring = 1}, {.ulysses = 4, .ring = 4}}) {
    const auto error = caught([&] { attention(4, 12, 0, wanted); });
    CHECK(error.code == ExitCode::config);
    CHECK(error.has("is not cp_size 4"));
  }
}

TEST_CASE("tokens of a request") {
  RequestConfig request;
  CHECK(token_grid(request, facts_1_3b()).total() == 32760);
  CHECK(token_grid(request, facts_1_3b()).frames == 21);
  request.width = 1280, request.height = 720;
  CHECK(token_grid(request, facts_1_3b()).total() == 75600);
  request.num_frames = 1, request.width = 16, request.height = 32;
  CHECK(token_grid(request, facts_1_3b()).total() == 2);
}

TEST_CASE("operations of a forward, in PFLOP") {
  const auto close = [](double got, double wanted) { return std::abs(got / wanted - 1) < 0.005; };
  CHECK(close(denoiser_operations(facts_1_3b(), 32760, 32760, 512), 0.283e15));
  CHECK(close(denoiser_operations(facts_14b(), 32760, 32760, 512), 1.678e15));
  CHECK(close(denoiser_operations(facts_14b(), 75600, 75600, 512), 6.523e15));
}

TEST_CASE("a plan's numbers follow from its sizes") {
  const RunPlan one = make_plan(config_with(), facts_1_3b(), cuda_machine(1));
  const RunPlan two = make_plan(config_with(), facts_1_3b(), cuda_machine(2));
  const RunPlan eight = make_plan(config_with(), facts_1_3b(), cuda_machine(8));
  CHECK(one.costs.moved_bytes == 0);
  CHECK(one.predicted.speedup == 1);
  CHECK(std::abs(one.costs.operations / (2 * 0.283e15) - 1) < 0.005);  // both branches
  CHECK(two.mesh.cfg == 2);
  CHECK(two.costs.operations == one.costs.operations / 2);
  // A prediction goes to the other branch's rank once a step, in the model's type (bfloat16).
  CHECK(two.costs.moved_bytes == 16 * 21 * 60 * 104 * 2);
  CHECK((two.predicted.speedup > 1.9 && two.predicted.speedup <= 2));
  CHECK(eight.attention.ulysses == 4);
  CHECK(eight.tokens.sizes() == std::vector<int64_t>(4, 8190));
  CHECK(eight.heads.sizes() == std::vector<int64_t>(4, 3));
  CHECK((eight.predicted.speedup > 6 && eight.predicted.speedup < 8));
  CHECK(eight.costs.denoise_bytes < one.costs.denoise_bytes);
  CHECK(one.costs.peak_bytes >= one.costs.text_bytes);
}

TEST_CASE("ranks of a node that share weights hold a part each") {
  PlanMachine machine{.world = 8, .ranks_per_node = 4, .device = "cpu", .backend = "mpi"};
  const RunConfig config = config_with({.cp = 4, .cfg = 2});
  const RankCosts apart = make_plan(config, facts_1_3b(), machine).costs;
  machine.shared_weights = true;
  const RankCosts shared = make_plan(config, facts_1_3b(), machine).costs;
  CHECK(apart.weight_bytes == facts_1_3b().denoiser_bytes);  // while another one decodes
  // Of its node, not of the world; one rank of the four decodes, and has the VAE to itself.
  const int64_t denoiser = facts_1_3b().denoiser_bytes;
  CHECK(shared.weight_bytes == denoiser / 4);
  CHECK(apart.denoise_bytes - shared.denoise_bytes == denoiser - denoiser / 4);
  CHECK(apart.decode_bytes - shared.decode_bytes == denoiser - denoiser / 4);
  // One rank alone encodes the text, and each is a process of its own.
  CHECK(shared.text_bytes == apart.text_bytes);
  CHECK(shared.peak_bytes > shared.text_bytes);
  machine.backend = "threads";
  CHECK(make_plan(config, facts_1_3b(), machine).costs.text_bytes == apart.text_bytes / 4);
}

TEST_CASE("all-to-all moves what the arithmetic says") {
  // 100.6 MB a layer a rank for 1.3B over 2 ranks, 581 MB for 14B at 720p over 4; the prediction's gather is
  // little.
  RunConfig config = config_with({.cp = 2, .cfg = 1});
  config.request->guidance_scale = 1;
  const RunPlan small = make_plan(config, facts_1_3b(), cuda_machine(2));
  CHECK(std::abs(double(small.costs.moved_bytes) / (30 * 100.6e6) - 1) < 0.005);
  config.infer.diffusion.cp_size = {4}, config.request->width = 1280, config.request->height = 720;
  const RunPlan large = make_plan(config, facts_14b(), cuda_machine(4));
  CHECK(std::abs(double(large.costs.moved_bytes) / (40 * 581e6) - 1) < 0.005);
}

TEST_CASE("a plan is made for the largest request, and must fit the smallest") {
  RunConfig config = config_with(2);
  config.requests[0].width = config.requests[0].height = 16, config.requests[0].num_frames = 5;  // 2 tokens
  CHECK(make_plan(config, facts_1_3b(), cuda_machine(4)).grid.total() == 32760);
  CHECK(caught([&] { make_plan(config, facts_1_3b(), cuda_machine(3)); }).has("more than the 2 tokens"));
  config.requests[1].guidance_scale = 1;  // one request without guidance leaves half of a CFG group idle
  CHECK(make_plan(config, facts_1_3b(), cuda_machine(2)).mesh.cfg == 1);
}

TEST_CASE("more ranks than heads is a warning") {
  RunConfig config = config_with({.cp = 13});
  CHECK(make_plan(config, facts_1_3b(), cuda_machine(13)).warnings.front().find("ring of 13") !=
        std::string::npos);
  config.infer.attention.ulysses_size = {13};
  const RunPlan plan = make_plan(config, facts_1_3b(), cuda_machine(13));
  CHECK(plan.warnings.front().find("1 of the 13 ranks of a Ulysses group attend to no head") !=
        std::string::npos);
  CHECK(make_plan(config_with(), facts_1_3b(), cuda_machine(8)).warnings.empty());
}

TEST_CASE("unequal ranks share the work by their speeds") {
  PlanMachine unequal = cuda_machine(2);
  unequal.speeds = {2, 1};
  const RunPlan even = make_plan(config_with({.cp = 2}), facts_1_3b(), cuda_machine(2)),
                weighted = make_plan(config_with({.cp = 2}), facts_1_3b(), unequal),
                alone = make_plan(config_with(), facts_1_3b(), cuda_machine(1));
  CHECK(weighted.heads.sizes() == std::vector<int64_t>{8, 4});
  CHECK(weighted.tokens.size(0) > 1.9 * weighted.tokens.size(1));
  // In the time of the faster one: two thirds of all instead of a half on the slower one.
  CHECK(weighted.costs.operations == Approx(alone.costs.operations * 2 / 3).epsilon(0.01));
  CHECK(weighted.predicted.speedup > 1.4);
  CHECK(weighted.predicted.speedup < 1.5);
  CHECK(even.predicted.speedup > 1.8);
  CHECK(describe(weighted, facts_1_3b()).find("speeds    2:1") != std::string::npos);
}

TEST_CASE("options that change nothing here are named") {
  const auto warnings = [](RunConfig config, const PlanMachine& machine) {
    config.infer.cuda_graph = config.infer.overlap_exchange = "on";
    return fmt::format("{}", fmt::join(make_plan(config, facts_1_3b(), machine).warnings, "\n"));
  };
  const std::string alone = warnings(config_with(), cuda_machine(1));
  CHECK(alone == "infer.overlap_exchange=on has no effect with ulysses 1 x ring 1");
  const std::string both = warnings(config_with({.cp = 2}), cuda_machine(2));
  CHECK(both == "infer.cuda_graph=on has no effect, since cp_size is 2: NCCL's exchanges are not recorded");
  CHECK(warnings(config_with(), PlanMachine{}).find("since CPUs compute") != std::string::npos);
  RunConfig cached = config_with();
  cached.lossy.step_cache = 0.1;
  CHECK(warnings(cached, cuda_machine(1)).find("lossy.step_cache makes the steps differ") !=
        std::string::npos);
}

TEST_CASE("who decodes: every GPU, else one rank a host") {
  auto plan = [](int world, int ranks_per_node, const std::string& device, const std::string& backend,
                 std::optional<int64_t> wanted = {}) {
    RunConfig config = config_with({.dp = 1});
    config.infer.vae_parallel_size = {wanted};
    PlanMachine machine = cuda_machine(world);
    machine.device = device, machine.backend = backend, machine.ranks_per_node = ranks_per_node;
    return make_plan(config, facts_1_3b(), machine);
  };
  CHECK(plan(8, 0, "cuda", "nccl").decoding.ranks == 8);
  CHECK(plan(2, 0, "cuda", "mpi").decoding.ranks == 1);  // they share a GPU
  CHECK(plan(8, 0, "cpu", "mpi").decoding.ranks == 1);
  CHECK(plan(8, 4, "cpu", "mpi").decoding.ranks == 2);
  CHECK(plan(8, 4, "cpu", "mpi").decoder_stride() == 4);
  CHECK(plan(8, 4, "cpu", "mpi", 4).decoding.ranks == 4);
  CHECK(plan(1, 0, "cpu", "mpi").decoding.ranks == 1);
  for (int64_t wrong : {3, 16}) {
    const auto error = caught([&] { plan(8, 0, "cpu", "mpi", wrong); });
    CHECK(error.code == ExitCode::config);
    CHECK(error.has("infer.vae_parallel_size " + std::to_string(wrong) + " where 8 ranks work on a video"));
  }
}
