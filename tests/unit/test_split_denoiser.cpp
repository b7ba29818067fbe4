// The model that is divided over devices: what it refuses, its step cache, its copies, and 100 runs.
#include <fstream>

#include "models/common/step_cache.h"
#include "models/split_denoiser.h"
#include "parallel/comm/thread.h"
#include "tests/support/divided_model.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using namespace frameshard::testing;
using frameshard::test::caught;

namespace {

// Pages of this process that lie in memory, in bytes.
int64_t resident() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, pages = 0;
  file >> size >> pages;
  return pages * 4096;
}

int threads_now() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("Threads:")) return std::stoi(line.substr(8));
  }
  return -1;
}

}  // namespace

TEST_CASE("a sequence that is divided over ranks already is refused") {
  ParallelDevices devices;
  devices.enable(cpus({1, 1}));
  const auto model = devices.parallelise(source(), at::kFloat);
  const TextContext text = model->prepare(initial_noise({1, 20, 32}, 71));
  const auto error = caught([&] {
    run_ranks(2, [&](Communicator& comm) {
      const AttentionStrategy attention(comm, {2, 1});
      const ParallelSequence sequence(comm, *attention, attention.divide(45));
      model->predict(initial_noise({1, 16, 3, 10, 6}, 73), at::full({1}, 423.0), text, sequence);
    });
  });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has("parallel over cpu, cpu of one process, and its sequence is divided over 2 ranks as well"));
}

TEST_CASE("what is not divided is what the model itself says") {
  const auto one = source()->load_denoiser({at::kFloat, cpu});
  ParallelDevices devices;
  devices.enable(cpus({2, 1}));
  const auto model = devices.parallelise(source(), at::kFloat);
  CHECK(model->dtype() == at::kFloat);
  CHECK(model->token_count({16, 3, 10, 6}) == 45);
  CHECK(model->latent_shape(9, 80, 48) == one->latent_shape(9, 80, 48));
  const at::Tensor timesteps = at::tensor({900.f, 700.f, 100.f});
  CHECK(model->modulation_changes(timesteps) == one->modulation_changes(timesteps));
  const auto error = caught([&] { model->move_to(at::Device("cuda:1")); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has("parallel over cpu, cpu, and is not moved to cuda:1; enable() that device instead"));
}

TEST_CASE("a step cache outlives a change of devices") {
  const auto one = source()->load_denoiser({at::kFloat, cpu});
  StepCache expected_cache, cache;
  predict(*one, &expected_cache, 900);
  expected_cache.reuse = true;
  const at::Tensor expected = predict(*one, &expected_cache, 500);
  CHECK(error_of(predict(*one, nullptr, 500), expected) > 1e-3);  // else nothing would be reused

  ParallelDevices devices;
  devices.enable(cpus({2, 1}));
  const auto model = devices.parallelise(source(), at::kFloat);
  predict(*model, &cache, 900);
  cache.reuse = true;
  CHECK(error_of(cache.residual, expected_cache.residual) <= 1e-5);
  for (const std::vector<double>& weights :
       std::vector<std::vector<double>>{{2, 1}, {1, 1, 3}, {1}, {1, 1, 1, 1, 1}}) {
    devices.enable(cpus(weights));
    CHECK(error_of(predict(*model, &cache, 500), expected) <= 1e-5);
  }
}

TEST_CASE("all copies are quantized, also later ones") {
  const auto one = source()->load_denoiser({at::kFloat, cpu});
  one->quantize_linear();
  const at::Tensor expected = predict(*one);
  REQUIRE(error_of(expected, alone()) > 1e-3);
  const auto list = std::make_shared<DeviceList>(DeviceShare{cpu});
  SplitDenoiser model(list, [](const at::Device&) { return source()->load_denoiser({at::kFloat, cpu}); });
  model.quantize_linear();
  model.quantize_linear();
  list->set({{cpu, 2}, {other_cpu, 1}});
  CHECK(error_of(predict(model), expected) <= 1e-3);
}

TEST_CASE("copies come and go with their devices, and one that cannot be had changes nothing") {
  const auto list = std::make_shared<DeviceList>(DeviceShare{cpu});
  std::vector<std::weak_ptr<Denoiser>> loaded;
  bool works = true;
  SplitDenoiser model(list, [&](const at::Device& device) {
    if (!works) fail(ExitCode::out_of_memory, "no memory on {}", device.str());
    std::shared_ptr<Denoiser> copy = source()->load_denoiser({at::kFloat, cpu});
    loaded.push_back(copy);
    return copy;
  });
  list->set({{cpu, 1}, {other_cpu, 1}, {cpu, 1}});
  CHECK(error_of(predict(model), alone()) <= 1e-5);
  REQUIRE(loaded.size() == 2);
  CHECK(!loaded[0].expired());
  list->set({{other_cpu, 1}, {other_cpu, 1}});
  CHECK(error_of(predict(model), alone()) <= 1e-5);
  CHECK(loaded[0].expired());
  CHECK(!loaded[1].expired());

  works = false;
  list->set({{cpu, 1}, {other_cpu, 1}});
  for (int i = 0; i < 2; ++i) {
    const auto error = caught([&] { predict(model); });
    CHECK(error.code == ExitCode::out_of_memory);
    CHECK(error.message == "no memory on cpu");
  }
  CHECK(!loaded[1].expired());
  list->set({{other_cpu, 1}});
  CHECK(error_of(predict(model), alone()) <= 1e-5);
  works = true;
  list->set({{cpu, 1}, {other_cpu, 1}});
  CHECK(error_of(predict(model), alone()) <= 1e-5);
  CHECK(loaded.size() == 3);
}

TEST_CASE("100 runs with changing devices take no more memory and threads than 20") {
  const auto list = std::make_shared<DeviceList>(DeviceShare{cpu});
  ParallelDevices devices;
  const auto model = devices.parallelise(source(), at::kFloat);
  // Its copies are loaded anew, which those of one CPU are not.
  const SplitDenoiser reloading(list, [](const at::Device&) {
    return source()->load_denoiser({at::kFloat, cpu});
  });
  int64_t bytes_at_20 = 0;
  int threads_at_20 = 0;
  const std::vector<std::vector<double>> weights{{1, 1}, {2, 1}, {1, 1, 1}, {0, 1, 3}, {1}, {1, 2, 3, 4, 5}};
  for (size_t run = 1; run <= 100; ++run) {
    if (run % 7 == 0) {
      devices.disable();
    } else {
      devices.enable(cpus(weights[run % weights.size()]));
    }
    list->set({{run % 2 ? cpu : other_cpu, 1}, {run % 3 ? cpu : other_cpu, double(run)}});
    REQUIRE(error_of(predict(*model), alone()) <= 1e-5);
    REQUIRE(error_of(predict(reloading), alone()) <= 1e-5);
    if (run == 20) bytes_at_20 = resident(), threads_at_20 = threads_now();
  }
  // A thread that was waited for may be shown for a moment yet.
  CHECK(threads_now() <= threads_at_20 + 5);
#ifdef __SANITIZE_ADDRESS__
  WARN("memory not looked at: the sanitizer keeps what is freed");
#else
  const int64_t grown = resident() - bytes_at_20;
  CAPTURE(grown);
  CHECK(grown < 8 << 20);
#endif
}
