// What `frameshard bench` measures and what follows from its numbers, without measuring.
#include <algorithm>

#include "core/config.h"
#include "launcher/bench/measurement.h"
#include "launcher/bench/memory.h"
#include "launcher/bench/meshes.h"
#include "launcher/bench/options.h"
#include "launcher/bench/report.h"
#include "launcher/bench/setup.h"
#include "models/presets.h"
#include "models/weights.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;

namespace {

constexpr int64_t gib = int64_t{1} << 30;

std::string names(const std::vector<BenchCase>& cases) {
  std::string text;
  for (const BenchCase& what : cases) {
    text += (text.empty() ? "" : " ") + mesh_name(what.mesh) + (what.guided && what.mesh.cfg == 1 ? "+" : "");
  }
  return text;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

Measurement measured(const BenchCase& what, std::vector<double> seconds) {
  return {.what = what, .attention = {}, .step_seconds = std::move(seconds), .exchange_share = 0.25};
}

BenchReport small_report() {
  BenchReport report{
      .model = "it's", .size = "64x64x5", .dtype = "float32", .backend = "mpi", .weight_bytes = gib};
  report.devices = {{"a", "cpu", 2}, {"a", "cpu", 2}, {"b", "cpu", 2}};
  report.measured = {measured({}, {4, 1, 2}), measured({.mesh = {.cp = 2}}, {1, 1.5, 5}),
                     measured({.mesh = {}, .guided = true}, {6, 4}),
                     measured({.mesh = {.cfg = 2}, .guided = true}, {2.5}),
                     measured({.mesh = {.dp = 2}}, {2.5})};
  return report;
}

}  // namespace

TEST_CASE("meshes are read in any order of their axes") {
  REQUIRE(names(parse_meshes("cp2,cfg2,cp4xcfg2,dp2xcfg2xcp3,single")) ==
          "cp2 cfg2 cfg2xcp4 dp2xcfg2xcp3 single");
  REQUIRE(names(parse_meshes("cp1,dp1")) == "single single");
  REQUIRE(parse_meshes("cfg2xcp2").front().guided);
  REQUIRE_FALSE(parse_meshes("dp2xcp2").front().guided);
}

TEST_CASE("what is no mesh is refused with how to write one") {
  for (const char* list :
       {"", "cp", "cp0", "cp-1", "2", "cp2,", "cp2xcp2", "ring2", "cp2x", "cp2y", "cp99999999999"}) {
    INFO(list);
    const auto error = caught([&] { parse_meshes(list); });
    REQUIRE(error.code == ExitCode::usage);
    REQUIRE(error.has("is no mesh; write cp, cfg and dp with their sizes, as in cp4, cfg2, cfg2xcp2"));
  }
  REQUIRE(caught([] { parse_meshes("cfg3"); }).has("\"cfg3\": cfg is at most 2"));
  REQUIRE(caught([] { parse_meshes("dp65536xcp65536"); }).has("at most 65536 ranks in all"));
}

TEST_CASE("left out, the meshes go as far as ranks and tokens do") {
  REQUIRE(names(default_meshes(1, 100)) == "single single+");
  REQUIRE(names(default_meshes(2, 100)) == "single single+ cp2 cfg2 dp2");
  REQUIRE(names(default_meshes(6, 100)) == "single single+ cp2 cp4 cp6 cfg2 cfg2xcp2 cfg2xcp3 dp2 dp4 dp6");
  REQUIRE(names(default_meshes(8, 3)) == "single single+ cp2 cp3 cfg2 cfg2xcp2 cfg2xcp3 dp2 dp4 dp8");
}

TEST_CASE("each case comes with one rank of the same guidance, once, in the order of the tables") {
  REQUIRE(names(with_baselines(parse_meshes("dp2,cfg2xcp2,cp4,cp2,cp2"))) ==
          "single cp2 cp4 single+ cfg2xcp2 dp2");
  REQUIRE(names(with_baselines(parse_meshes("cfg2"))) == "single+ cfg2");
  REQUIRE(names(with_baselines(default_meshes(4, 100))) == "single cp2 cp4 single+ cfg2 cfg2xcp2 dp2 dp4");
}

TEST_CASE("a mesh needs its ranks and its tokens") {
  REQUIRE_NOTHROW(check_meshes(parse_meshes("cp4,cfg2xcp2"), 4, 4));
  const auto ranks = caught([] { check_meshes(parse_meshes("cp2,cfg2xcp4"), 4, 100); });
  REQUIRE(ranks.code == ExitCode::usage);
  REQUIRE(ranks.has(
      "mesh cfg2xcp4 needs 8 ranks, and there are 4; start 8: frameshard launch --nproc-per-node 8"));
  const auto tokens = caught([] { check_meshes(parse_meshes("cp5"), 8, 4); });
  REQUIRE(tokens.code == ExitCode::config);
  REQUIRE(tokens.has("mesh cp5 has 5 ranks for the sequence, and this video has 4 tokens"));
}

TEST_CASE("a video's size is three numbers that a model can use") {
  const VideoSize size = parse_size("832x480x81");
  REQUIRE(size.width == 832);
  REQUIRE(size.height == 480);
  REQUIRE(size.frames == 81);
  REQUIRE(size.text() == "832x480x81");
  for (const char* text :
       {"", "832", "832x480", "832x480x", "x480x81", "832x480x81x1", "832x480x81 ", "axbxc"}) {
    INFO(text);
    const auto error = caught([&] { parse_size(text); });
    REQUIRE(error.code == ExitCode::usage);
    REQUIRE(error.has("is no size; write WIDTHxHEIGHTxFRAMES"));
  }
  REQUIRE(caught([] { parse_size("840x480x81"); }).has("the width must be a multiple of 16"));
  REQUIRE(caught([] { parse_size("832x0x81"); }).has("the height must be a multiple of 16"));
  REQUIRE(caught([] { parse_size("832x480x80"); }).has("the number of frames must be 4k+1"));
}

TEST_CASE("speed-up is against one rank that does the same work") {
  const auto all = small_report().measured;
  REQUIRE(seconds_a_step(all[0]) == 2);  // the middle one
  REQUIRE(seconds_a_step(all[2]) == 5);  // between two
  REQUIRE(speedup_of(all[1], all) == Approx(2 / 1.5));
  REQUIRE(efficiency_of(all[1], all) == Approx(1 / 1.5));
  REQUIRE(speedup_of(all[3], all) == 2);            // both branches on one rank take 5
  REQUIRE(speedup_of(all[4], all) == Approx(1.6));  // two videos in 2.5 instead of one in 2
  REQUIRE(efficiency_of(all[4], all) == Approx(0.8));
  REQUIRE(requests_a_second(all[4]) == Approx(2 / 2.5 / 50));
  REQUIRE(caught([&] { speedup_of(all[1], {}); }).code == ExitCode::internal);
}

TEST_CASE("the report has a table a kind of mesh, each with what it is compared with") {
  const std::string text = report_text(small_report());
  REQUIRE(has(text, "2 ranks on cpu (host a)\n1 rank on cpu (host b)\n"));
  REQUIRE(has(text, "weights a rank: 1.00 GiB"));
  const size_t cp = text.find("\ncontext parallelism"), cfg = text.find("\nCFG parallelism"),
               dp = text.find("\ndata parallelism");
  REQUIRE(cp < cfg);
  REQUIRE(cfg < dp);
  REQUIRE_FALSE(has(text, "CFG and context"));
  REQUIRE(has(text.substr(cp, cfg - cp), "  single      1       2      1.00       100 %"));
  REQUIRE(has(text.substr(cp, cfg - cp), "  cp2         2     1.5      1.33        67 %"));
  REQUIRE(has(text.substr(cfg, dp - cfg), "  single, guided      1"));
  REQUIRE_FALSE(has(text.substr(cfg, dp - cfg), "single  "));
  REQUIRE(has(text.substr(dp), "requests/s"));
}

TEST_CASE("the report as JSON holds every step, and null for what is not known") {
  BenchReport report = small_report();
  report.measured[1].exchange_share.reset();
  const Json json = report_json(report);
  REQUIRE(json["meshes"].size() == 5);
  const Json& cp2 = json["meshes"][1];
  REQUIRE(cp2["mesh"] == "cp2");
  REQUIRE(cp2["table"] == "cp");
  REQUIRE(cp2["step_seconds"] == std::vector<double>{1, 1.5, 5});
  REQUIRE(cp2["exchange_share"].is_null());
  REQUIRE(json["meshes"][3]["exchange_share"] == 0.25);
  REQUIRE(json["machine"]["ranks"].size() == 3);
}

TEST_CASE("gnuplot gets the points of each table, and quoted texts") {
  const std::string script = plot_script(small_report(), "o'clock.png");
  REQUIRE(has(script, "$cp << END\n1 1\n2 1.33333\nEND\n"));
  REQUIRE(has(script, "$dp << END\n1 1\n2 1.6\nEND\n"));
  REQUIRE_FALSE(has(script, "$hybrid"));
  REQUIRE(has(script, "set output 'o''clock.png'"));
  REQUIRE(has(script, "'it''s, 64x64x5, float32'"));
  REQUIRE(has(script, "plot x with lines"));
}

TEST_CASE("what does not fit into the memory is refused with how much is needed and there is") {
  const BenchMemory host{
      .model = "m", .place = "this host", .sharing = 4, .free_bytes = 20 * gib, .weight_bytes = 3 * gib};
  REQUIRE_NOTHROW(check_bench_memory(host, {{1, 8 * gib}, {2, 4 * gib}, {4, 2 * gib}}));
  const auto error = caught([&] { check_bench_memory(host, {{1, 8 * gib}, {4, 3 * gib}, {8, gib}}); });
  REQUIRE(error.code == ExitCode::out_of_memory);
  REQUIRE(error.has(
      "m needs 3.00 GiB of weights and about 3.00 GiB while it computes a step on each of the 4 ranks"));
  REQUIRE(error.has("24.00 GiB in all, and 20.00 GiB are free on this host; choose a smaller"));
}

TEST_CASE("presets have the published sizes") {
  struct Wanted {
    const char* name;
    int64_t layers, heads, head_dim, tokens;
    double parameters;  // in thousands of millions, as they are called
  };
  for (const Wanted& wanted : {Wanted{"wan-middle", 6, 8, 64, 2304, 0.028},
                               {"wan-1.3b", 30, 12, 128, 32760, 1.42},
                               {"wan-14b", 40, 40, 128, 75600, 14.29}}) {
    INFO(wanted.name);
    const BenchSetup setup = open_bench({.model = wanted.name, .dtype = "bfloat16"}, 2);
    REQUIRE(setup.facts.layers == wanted.layers);
    REQUIRE(setup.facts.heads == wanted.heads);
    REQUIRE(setup.facts.head_dim == wanted.head_dim);
    REQUIRE(setup.tokens == wanted.tokens);
    REQUIRE(double(setup.facts.denoiser_bytes) / 2e9 == Approx(wanted.parameters).epsilon(0.01));
    REQUIRE(plan_case(setup, {.mesh = {.cp = 2}}, {}).attention.ulysses == 2);
  }
  REQUIRE(find_preset("wan-2b") == nullptr);
}

TEST_CASE("random weights are the same for the same seed, small, and 1 for norms") {
  at::Tensor matrix, norm, bias;
  WeightList list;
  list.add("matrix.weight", {64, 32}, matrix);
  list.add("norm_q.weight", {8}, norm);
  list.add_float32("norm2.bias", {8}, bias);
  randomize_weights(list, at::kBFloat16, at::kCPU, 7);
  const at::Tensor first = matrix;
  REQUIRE(matrix.scalar_type() == at::kBFloat16);
  REQUIRE(bias.scalar_type() == at::kFloat);
  REQUIRE(norm.eq(1).all().item<bool>());
  REQUIRE(bias.abs().max().item<double>() > 0);
  REQUIRE(matrix.to(at::kFloat).std().item<double>() == Approx(0.02).epsilon(0.1));
  randomize_weights(list, at::kBFloat16, at::kCPU, 7);
  REQUIRE(at::equal(matrix, first));
  randomize_weights(list, at::kBFloat16, at::kCPU, 8);
  REQUIRE_FALSE(at::equal(matrix, first));
}
