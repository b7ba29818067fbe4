// Which devices a process takes of those that the configuration lists, and how many ranks it starts.
#include "launcher/devices.h"
#include "parallel/comm/self.h"
#include "parallel/comm/thread.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;

namespace {

const DevicesHere two_gpus{.gpus = 2, .text = "here are cuda:0 (A), cuda:1 (B)"};
const DevicesHere no_gpu{.gpus = 0, .text = "no NVIDIA driver"};

RunConfig with_devices(const std::vector<std::string>& words) {
  RunConfig config;
  for (const std::string& word : words) config.devices.push_back({.device = word, .weight = {1.0}});
  return config;
}

std::vector<std::string> words_of(const RunConfig& config) {
  std::vector<std::string> words;
  for (const DeviceConfig& each : config.devices) words.push_back(each.device);
  return words;
}

using Words = std::vector<std::string>;

}  // namespace

TEST_CASE("a device that is here") {
  for (const char* word : {"auto", "cpu", "default"}) CHECK(no_gpu.has(word));
  CHECK((two_gpus.has("cuda") && two_gpus.has("cuda:0") && two_gpus.has("cuda:1")));
  CHECK((!two_gpus.has("cuda:2") && !no_gpu.has("cuda") && !no_gpu.has("cuda:0")));
}

TEST_CASE("the short form becomes devices of equal weight") {
  RunConfig config;
  config.place.denoiser = {"cuda:1", "default", "cpu"};
  expand_devices(config);
  CHECK(words_of(config) == Words{"cuda:1", "auto", "cpu"});
  CHECK(config.place.denoiser.empty());  // it would contradict devices when the configuration is read again
  CHECK(rank_speeds(config, 3).empty());
}

TEST_CASE("a missing device is an error, or left out with a warning") {
  RunConfig config = with_devices({"cuda:0", "cuda:3", "cpu"});
  const auto error = caught([&] { skip_missing_devices(config, two_gpus); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.message ==
        "devices.1.device is cuda:3, but here are cuda:0 (A), cuda:1 (B); correct it, or set "
        "infer.missing_devices=skip to go on without it");
  config.infer.missing_devices = "skip";
  const auto warnings = skip_missing_devices(config, two_gpus);
  CHECK(warnings == Words{"devices.1 is left out: it is cuda:3, but here are cuda:0 (A), cuda:1 (B)"});
  CHECK(words_of(config) == Words{"cuda:0", "cpu"});
  CHECK(skip_missing_devices(config, two_gpus).empty());
}

TEST_CASE("at least one device must be left") {
  RunConfig config = with_devices({"cuda:0", "cuda"});
  config.infer.missing_devices = "skip";
  const auto error = caught([&] { skip_missing_devices(config, no_gpu); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.message == "none of the 2 of devices is here: no NVIDIA driver; list one that is, or cpu");
}

TEST_CASE("a list is shortened, with a warning") {
  RunConfig config = with_devices({"cpu", "cuda:0", "cuda:1"});
  CHECK(limit_devices(config).empty());
  config.infer.max_devices = 2;
  CHECK(limit_devices(config) == Words{"infer.max_devices is 2: of 3 devices the first 2 are used"});
  CHECK(words_of(config) == Words{"cpu", "cuda:0"});
  CHECK(limit_devices(config).empty());
  config.infer.parallel = "off";
  CHECK(limit_devices(config) == Words{"infer.parallel is off: of 2 devices the first is used"});
  CHECK(words_of(config) == Words{"cpu"});
}

TEST_CASE("infer.device against devices") {
  RunConfig config = with_devices({"cpu", "auto", "cuda:0", "cuda"});
  CHECK(contradiction(config).empty());
  config.infer.device = "cpu";
  CHECK(contradiction(config) == "infer.device is cpu, but 2 of 4 devices are not: devices counts");
  config.infer.device = "cuda";
  CHECK(contradiction(config) == "infer.device is cuda, but 1 of 4 devices is not: devices counts");
}

TEST_CASE("a machine whose GPUs LibTorch cannot use") {
  const IdleCards one{.count = 1, .why = "no driver"};
  CHECK(unused_gpu({}, {}).empty());
  CHECK(unused_gpu({}, one) ==
        "the CPU is used, although 1 NVIDIA card is here: no driver; infer.device=cpu where that is meant");
  CHECK(
      unused_gpu(with_devices({"cpu", "auto"}), {2, "old driver"}) ==
      "the CPU is used, although 2 NVIDIA cards are here: old driver; infer.device=cpu where that is meant");
  CHECK(unused_gpu(with_devices({"cpu", "cpu"}), one).empty());
  RunConfig config;
  config.infer.device = "cpu";
  CHECK(unused_gpu(config, one).empty());
}

TEST_CASE("GPUs and CPUs in one list: threads of one process alone") {
  RunConfig config = with_devices({"cpu", "cuda:0"});
  CHECK(mixes_devices(config));
  for (const auto& [backend, under_mpi] : {std::pair("auto", true), {"mpi", false}, {"nccl", false}}) {
    config.infer.backend = backend;
    const auto error = caught([&, mpi = under_mpi] { device_type(config, mpi); });
    CHECK(error.code == ExitCode::config);
    CHECK(error.has("devices lists GPUs and CPUs, which only threads of one process can share a job on"));
  }
  CHECK_FALSE(mixes_devices(with_devices({"cuda:1", "cuda:0"})));
  CHECK_FALSE(mixes_devices(with_devices({"cpu", "cpu"})));
}

TEST_CASE("weights that are to be measured are no speeds yet") {
  RunConfig config = with_devices({"cpu", "cpu"});
  config.devices[0].weight = config.devices[1].weight = {};
  CHECK(rank_speeds(config, 2).empty());
  config.devices[0].weight = {2.0}, config.devices[1].weight = {1.0};
  CHECK(rank_speeds(config, 2) == std::vector<double>{2, 1});
}

namespace {

struct Case {
  const char* what;
  const char* backend;
  int gpus;
  int64_t cp;  // 0: auto
  int ranks;
  bool chosen;
};

}  // namespace

TEST_CASE("how many ranks one process has") {
  // On a machine where `threads` means 4 ranks without GPUs.
  const std::vector<Case> cases = {
      {"a CPU", "auto", 0, 0, 1, false},         {"one GPU", "auto", 1, 0, 1, false},
      {"all GPUs", "auto", 3, 0, 3, true},       {"MPI, alone", "mpi", 3, 0, 1, false},
      {"two of them", "auto", 3, 2, 2, false},   {"threads", "threads", 0, 0, 4, true},
      {"two threads", "threads", 0, 2, 2, false}};
  for (const Case& each : cases) {
    INFO(each.what);
    RunConfig config;
    config.infer.backend = each.backend;
    if (each.cp > 0) config.infer.diffusion.cp_size = {each.cp};
    const RankCount count = ranks_alone(config, {.gpus = each.gpus}, each.gpus > 0 ? each.gpus : 4);
    CHECK(count.ranks == each.ranks);
    CHECK(count.chosen == each.chosen);
  }
}

TEST_CASE("what limits the number of ranks") {
  RunConfig config;
  config.infer.max_devices = 2;
  CHECK(ranks_alone(config, {.gpus = 4}, 4).ranks == 2);
  config.infer.parallel = "off";
  CHECK(ranks_alone(config, {.gpus = 4}, 4).ranks == 1);
  config.infer = {};
  config.infer.device = "cpu";
  CHECK(ranks_alone(config, {.gpus = 4}, 4).ranks == 1);
  config.infer = {};
  config.infer.diffusion = {.cp_size = {1}, .cfg_size = {1}, .dp_size = {1}};
  CHECK(ranks_alone(config, {.gpus = 4}, 4).ranks == 1);  // so it is asked for
  CHECK(ranks_alone(with_devices({"cpu", "cpu", "cpu"}), no_gpu, 2).ranks == 3);
  CHECK_FALSE(ranks_alone(with_devices({"cpu", "cpu", "cpu"}), no_gpu, 2).chosen);
}

TEST_CASE("sizes that need other ranks are refused") {
  RunConfig config;
  config.infer.diffusion.cp_size = {4};
  auto message = [&](int gpus) {
    const auto error = caught([&] { ranks_alone(config, {.gpus = gpus}, std::max(2, gpus)); });
    CHECK(error.code == ExitCode::config);
    return error.message;
  };
  CHECK(message(0).starts_with("dp*cfg*cp = 4 but 1 rank was started; start 4 ranks"));
  CHECK(message(2).starts_with("dp*cfg*cp = 4 but 1 rank was started; start 4 ranks"));
  config.infer.max_devices = 3;
  CHECK(message(8) ==
        "infer.max_devices is 3, but dp*cfg*cp = 4; set the sizes of infer.diffusion to less or auto, or "
        "allow 4 "
        "devices");
  config.infer.parallel = "off";
  CHECK(message(8).starts_with("infer.parallel is off, but dp*cfg*cp = 4; set the sizes"));
}

TEST_CASE("work that is too small to gain keeps one device") {
  CHECK(too_small_to_gain({.ranks = 2, .chosen = true}, 3, 0.5) ==
        "one device is used: 1.5 s of denoising are predicted on it, 3 s on 2; the sizes of infer.diffusion, "
        "or "
        "devices, decide otherwise");
  CHECK(too_small_to_gain({.ranks = 2, .chosen = true}, 3, 1).empty());
  CHECK(too_small_to_gain({.ranks = 2, .chosen = false}, 3, 0.5).empty());
}

TEST_CASE("a line for each device, with the ranks that have it") {
  std::vector<std::string> lines;
  run_ranks(3, [&](Communicator& world) {
    const auto mine = device_lines(at::Device(at::kCPU), world);
    if (world.rank() == 0) lines = mine;
    if (world.rank() != 0) REQUIRE(mine.empty());
  });
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].starts_with("ranks 0, 1, 2: cpu of "));
  CHECK(lines[0].find(" of memory, ") != std::string::npos);
}
