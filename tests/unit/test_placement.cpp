// Where the parts of a model are loaded, when they leave their device, and what the plan makes of it.
#include <atomic>
#include <thread>

#include "core/device.h"
#include "launcher/part_shelf.h"
#include "launcher/placement.h"
#include "models/weights.h"
#include "parallel/plan_costs.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/plan_cases.h"

using namespace frameshard;
using namespace frameshard::test;

namespace {

const at::Device cpu(at::kCPU), gpu0(at::kCUDA, 0), gpu1(at::kCUDA, 1);
const PartPlace place{gpu0, at::kBFloat16};

RunConfig placed(const std::string& text_encoder, const std::string& vae) {
  RunConfig config = config_with();
  config.place = {.denoiser = {}, .text_encoder = text_encoder, .vae = vae};
  return config;
}

}  // namespace

TEST_CASE("each part has its device and the dtype that suits it") {
  const RankParts all = parts_of(placed("default", "default"), gpu0, {});
  for (const PartPlace& part : {all.text_encoder, all.denoiser, all.vae}) CHECK(part.device == gpu0);
  CHECK((all.denoiser.dtype == at::kBFloat16 && all.vae.dtype == at::kFloat));
  const RankParts apart = parts_of(placed("cpu", "cuda:1"), gpu0, {});
  CHECK((apart.text_encoder.device == cpu && apart.text_encoder.dtype == at::kFloat));
  CHECK((apart.denoiser.device == gpu0 && apart.denoiser.dtype == at::kBFloat16));
  CHECK(apart.vae.device == gpu1);
  RunConfig named = placed("cpu", "default");
  named.model.dtype = "bfloat16";
  CHECK(parts_of(named, gpu0, {}).text_encoder.dtype == at::kBFloat16);
}

TEST_CASE("a VAE that is placed on a CPU has no half-precision convolutions") {
  for (const char* dtype : {"bfloat16", "float16"}) {
    RunConfig config = placed("default", "cpu");
    config.model.vae_dtype = dtype;
    CHECK(parts_of(config, gpu0, {}).vae.dtype == at::kFloat);
    const auto notes = placement_notes(config);
    REQUIRE(notes.size() == 1);
    CHECK(notes[0].starts_with(std::string("place.vae is cpu, where convolutions in ") + dtype));
    config.place.vae = "cuda:1";
    CHECK(parts_of(config, gpu0, {}).vae.dtype != at::kFloat);
    CHECK(placement_notes(config).empty());
  }
}

TEST_CASE("ranks on GPUs and CPUs compute in one dtype") {
  RunConfig config = config_with();
  config.devices = {{.device = "cuda:0", .weight = {9.0}}, {.device = "cpu", .weight = {1.0}}};
  CHECK((denoiser_dtype(config, gpu0, 0) == at::kFloat && denoiser_dtype(config, cpu, 1) == at::kFloat));
  REQUIRE(placement_notes(config).size() == 1);
  CHECK(placement_notes(config)[0].find("all of them compute in float32") != std::string::npos);
  config.model.dtype = "bfloat16";
  CHECK(
      (denoiser_dtype(config, gpu0, 0) == at::kBFloat16 && denoiser_dtype(config, cpu, 1) == at::kBFloat16));
  CHECK(placement_notes(config)[0].find("all of them compute in bfloat16") != std::string::npos);
  config.devices.pop_back(), config.model.dtype = "auto";
  CHECK(denoiser_dtype(config, gpu0, 0) == at::kBFloat16);
}

TEST_CASE("ranks of different types exchange in the narrower one") {
  struct Case {
    std::string first, second;
    at::ScalarType widest, wire;
  };
  for (const Case& each :
       {Case{"float32", "bfloat16", at::kFloat, at::kBFloat16},
        Case{"float16", "auto", at::kFloat, at::kHalf}, Case{"float16", "bfloat16", at::kHalf, at::kFloat},
        Case{"bfloat16", "bfloat16", at::kBFloat16, at::kBFloat16},
        Case{"auto", "auto", at::kFloat, at::kFloat}}) {
    INFO(each.first << " and " << each.second);
    RunConfig config = config_with();
    config.devices = {{.device = "cpu", .dtype = each.first}, {.device = "cpu", .dtype = each.second}};
    const RankTypes types = types_of_ranks(config, cpu);
    CHECK(c10::elementSize(types.widest) == c10::elementSize(each.widest));
    CHECK(types.wire == each.wire);
    CHECK(types.differ() == (each.first != each.second));
    CHECK(placement_notes(config).size() == size_t(types.differ()));
    CHECK(denoiser_dtype(config, cpu, 1) == resolve_dtype(each.second, cpu));
  }
  RunConfig mixed = config_with();
  mixed.devices = {{.device = "cuda:0", .dtype = "bfloat16"}, {.device = "cpu"}};
  CHECK((denoiser_dtype(mixed, gpu0, 0) == at::kBFloat16 && denoiser_dtype(mixed, cpu, 1) == at::kFloat));
  CHECK(types_of_ranks(mixed, gpu0).wire == at::kBFloat16);
  CHECK(parts_of(mixed, gpu0, {}).text_encoder.dtype == at::kFloat);  // the entry's type is the denoiser's
  // Planned for a GPU where none is: both are bfloat16 there.
  RunConfig planned = config_with();
  planned.devices = {{.dtype = "bfloat16"}, {.weight = {2.0}}};
  CHECK((types_of_ranks(planned, gpu0).count == 1 && types_of_ranks(planned, gpu0).wire == at::kBFloat16));
  CHECK(types_of_ranks(planned, cpu).count == 2);
  // A rank that computes nothing rounds nothing.
  planned.devices[0].weight = {0.0};
  CHECK((types_of_ranks(planned, cpu).count == 1 && types_of_ranks(planned, cpu).wire == at::kFloat));
  CHECK(denoiser_dtype(planned, cpu, 0) == at::kFloat);
}

TEST_CASE("a part on a GPU that is not here") {
  const DevicesHere here{.gpus = 1, .text = "here are cuda:0 (A)"};
  RunConfig config = placed("cuda:0", "cuda:3");
  const auto error = caught([&] { settle_places(config, here); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.message ==
        "place.vae is cuda:3, but here are cuda:0 (A); name another device, or set "
        "infer.missing_devices=skip for "
        "the default");
  config.infer.missing_devices = "skip";
  CHECK(settle_places(config, here) ==
        std::vector<std::string>{
            "place.vae is cuda:3, but here are cuda:0 (A): it goes where the denoiser is"});
  CHECK((config.place.vae == "default" && config.place.text_encoder == "cuda:0"));
}

TEST_CASE("what the plan must know of places") {
  auto machine_of = [](RunConfig config, PlanMachine machine) {
    describe_places(machine, config);
    return machine;
  };
  CHECK(machine_of(placed("cpu", "cpu"), cuda_machine(2)).text_elsewhere);
  CHECK(machine_of(placed("cpu", "cpu"), cuda_machine(2)).vae_elsewhere);
  CHECK_FALSE(machine_of(placed("cpu", "cpu"), {}).vae_elsewhere);
  CHECK_FALSE(machine_of(placed("default", "cuda:1"), cuda_machine(2)).vae_elsewhere);
  CHECK(machine_of(placed("default", "cuda:2"), cuda_machine(2)).vae_elsewhere);
  RunConfig listed = placed("default", "cuda:1");
  listed.devices = {{.device = "cuda:0", .weight = {1.0}}, {.device = "cuda:2", .weight = {1.0}}};
  CHECK(machine_of(listed, cuda_machine(2)).vae_elsewhere);
  listed.devices[1].device = "cuda:1";
  CHECK_FALSE(machine_of(listed, cuda_machine(2)).vae_elsewhere);
}

TEST_CASE("who takes turns on a device") {
  RunConfig config = config_with();
  CHECK((!parts_take_turns(config, cpu) && !parts_take_turns(config, gpu0)));
  config.infer.low_memory = 1;
  CHECK((!parts_take_turns(config, cpu) && parts_take_turns(config, gpu0)));
  config.infer.low_memory = 2;
  CHECK((parts_take_turns(config, cpu) && parts_take_turns(config, gpu0)));
}

TEST_CASE("the plan counts what is on the device in each phase") {
  const ModelFacts model = facts_1_3b();
  auto costs = [&](PlanMachine machine, Fixed sizes = {}) {
    return make_plan(config_with(sizes, sizes.dp.value_or(1) > 1 ? 2 : 1), model, machine).costs;
  };
  PlanMachine gpu = cuda_machine(1), host;
  gpu.memory_bytes = host.memory_bytes = int64_t(80) << 30;
  const RankCosts all = costs(gpu);
  gpu.low_memory = 1;
  const RankCosts turns = costs(gpu);
  CHECK(all.denoise_bytes - turns.denoise_bytes == model.vae_bytes);
  CHECK(all.decode_bytes - turns.decode_bytes == model.denoiser_bytes);
  CHECK(turns.weight_bytes == 0);
  gpu.low_memory = 0, gpu.text_elsewhere = gpu.vae_elsewhere = true;
  const RankCosts elsewhere = costs(gpu);
  CHECK((elsewhere.text_bytes == 0 && elsewhere.decode_bytes == model.denoiser_bytes));
  CHECK(elsewhere.peak_bytes == elsewhere.denoise_bytes);
  // A CPU keeps what a GPU gives back.
  const RankCosts cpu_all = costs(host);
  host.low_memory = 1;
  CHECK(costs(host).denoise_bytes == cpu_all.denoise_bytes);
  host.low_memory = 2;
  CHECK(cpu_all.denoise_bytes - costs(host).denoise_bytes == model.vae_bytes);
}

TEST_CASE("replicas that are threads have no turns on a CPU") {
  PlanMachine host{.world = 2, .backend = "threads", .shared_weights = true};
  RunConfig config = config_with({.dp = 2}, 2);
  const auto kept = make_plan(config, facts_1_3b(), host).costs;
  host.low_memory = 2;
  CHECK(make_plan(config, facts_1_3b(), host).costs.denoise_bytes == kept.denoise_bytes);
  host.backend = "mpi";  // each replica its own copy, so that it can read again when it wants
  const auto apart = make_plan(config, facts_1_3b(), host).costs;
  CHECK(apart.denoise_bytes - kept.denoise_bytes ==
        facts_1_3b().denoiser_bytes - (facts_1_3b().denoiser_bytes + facts_1_3b().vae_bytes) / 2);
}

namespace {

struct FakePart {
  std::vector<std::string>* log;
  explicit FakePart(std::vector<std::string>* the_log) : log(the_log) { log->push_back("load"); }
  FakePart(const FakePart&) = delete;
  FakePart& operator=(const FakePart&) = delete;
  ~FakePart() { log->push_back("free"); }
  void move_to(const at::Device& device) { log->push_back("to " + device.str()); }
};

}  // namespace

TEST_CASE("a part leaves its device with its last user") {
  std::vector<std::string> log;
  PartShelf<FakePart> shelf;
  const auto load = [&] { return std::make_unique<FakePart>(&log); };
  auto a = shelf.take(place, load), b = shelf.take(place, load);
  CHECK((a == b && log == std::vector<std::string>{"load"}));
  CHECK_FALSE(shelf.put_back(place, std::move(a), WhenUnused::to_host));
  CHECK(shelf.put_back(place, std::move(b), WhenUnused::to_host));
  CHECK(log == std::vector<std::string>{"load", "to cpu"});
  auto c = shelf.take(place, load);
  CHECK(log == std::vector<std::string>{"load", "to cpu", "to cuda:0"});
  CHECK(shelf.put_back(place, std::move(c), WhenUnused::freed));
  CHECK(log.back() == "free");
  auto d = shelf.take(place, load);
  CHECK(log.back() == "load");
  CHECK_FALSE(shelf.put_back(place, std::move(d), WhenUnused::stays));
  CHECK(log.back() == "load");
}

TEST_CASE("parts of different types share no weights") {
  std::vector<std::string> log;
  PartShelf<FakePart> shelf;
  const auto load = [&] { return std::make_unique<FakePart>(&log); };
  const PartPlace other{gpu0, at::kFloat};
  auto a = shelf.take(place, load), b = shelf.take(other, load);
  CHECK((a != b && log == std::vector<std::string>{"load", "load"}));
  CHECK(shelf.put_back(place, std::move(a), WhenUnused::freed));
  CHECK(shelf.put_back(other, std::move(b), WhenUnused::freed));
}

TEST_CASE("threads never make two copies on a device") {
  std::atomic<int> copies = 0, most = 0;
  struct Counted {
    std::atomic<int>& copies;
    explicit Counted(std::atomic<int>& the_copies) : copies(the_copies) {}
    ~Counted() { --copies; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    void move_to(const at::Device&) {}
  };
  PartShelf<Counted> shelf;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 200; ++turn) {
        auto part = shelf.take(place, [&] {
          most = std::max(most.load(), ++copies);
          return std::make_unique<Counted>(copies);
        });
        shelf.put_back(place, std::move(part), WhenUnused::freed);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK((most == 1 && copies == 0));
}

TEST_CASE("moved weights: parts of a whole stay parts of it") {
  Linear q, k, joined;
  at::Tensor norm;
  WeightList list;
  list.add_layer("q", {2, 3}, q);
  list.add_layer("k", {4, 3}, k);
  list.add("norm.weight", {3}, norm);
  list.stack({&q, &k}, joined);
  randomize_weights(list, at::kFloat, at::kCPU, 1);
  const auto meta = at::Device(at::kMeta);  // a device that every machine has
  SECTION("all of them") {
    move_weights(list, meta);
    for (const at::Tensor& each : {q.weight, q.bias, k.weight, joined.weight, norm}) {
      CHECK(each.device() == meta);
    }
    CHECK((q.weight.sizes() == at::IntArrayRef{2, 3} && k.weight.sizes() == at::IntArrayRef{4, 3}));
    CHECK((k.weight.storage_offset() == 6 && k.weight.is_alias_of(joined.weight)));
  }
  SECTION("where the parts were given up for the whole") {
    q = k = {};
    move_weights(list, meta);
    CHECK((joined.weight.device() == meta && !q.weight.defined() && !k.bias.defined()));
  }
}
