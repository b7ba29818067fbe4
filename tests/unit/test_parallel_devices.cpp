// The list of devices of one process, and models that follow it.
#include <cmath>

#include "core/device.h"
#include "models/parallel_devices.h"
#include "tests/support/divided_model.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using namespace frameshard::testing;
using frameshard::test::caught;

namespace {

// Writes down how the tokens are divided in each prediction, a line a rank.
class Watched final : public Denoiser {
 public:
  at::ScalarType dtype() const override { return model_->dtype(); }
  TextContext prepare(const at::Tensor& text) const override { return model_->prepare(text); }
  at::Tensor predict(const at::Tensor& latents, const at::Tensor& timestep, const TextContext& text,
                     const ParallelSequence& sequence, StepCache* cache) const override {
    {
      const std::lock_guard lock(mutex_);
      seen.push_back(sequence.tokens().sizes());
    }
    return model_->predict(latents, timestep, text, sequence, cache);
  }
  std::vector<double> modulation_changes(const at::Tensor& timesteps) const override {
    return model_->modulation_changes(timesteps);
  }
  void quantize_linear() override { model_->quantize_linear(); }
  int64_t token_count(at::IntArrayRef shape) const override { return model_->token_count(shape); }
  std::vector<int64_t> latent_shape(int64_t frames, int64_t height, int64_t width) const override {
    return model_->latent_shape(frames, height, width);
  }

  mutable std::vector<std::vector<int64_t>> seen;

 private:
  std::unique_ptr<Denoiser> model_ = source()->load_denoiser({at::kFloat, cpu});
  mutable std::mutex mutex_;
};

}  // namespace

TEST_CASE("devices are enabled, told and disabled") {
  ParallelDevices devices;
  CHECK(!devices.enabled());
  CHECK(devices.ids().empty());
  devices.enable({{cpu, 2}, {other_cpu, 1}, {cpu, 0}});
  CHECK(devices.enabled());
  CHECK(devices.ids() == std::vector<std::string>{"cpu", "cpu", "cpu"});
  devices.enable(cpus({1, 1}));
  CHECK(devices.ids().size() == 2);
  devices.disable();
  devices.disable();
  CHECK(!devices.enabled());
  CHECK(devices.ids().empty());
}

TEST_CASE("several devices predict what one does, by any weights") {
  ParallelDevices devices;
  const auto model = devices.parallelise(source(), at::kFloat);
  CHECK(error_of(predict(*model), alone()) <= 1e-5);
  // 4 heads: five devices are a ring.
  for (const std::vector<double>& weights : std::vector<std::vector<double>>{{1},
                                                                             {1, 1},
                                                                             {2, 1},
                                                                             {30, 70},
                                                                             {1, 0},
                                                                             {0, 1},
                                                                             {1, 1, 1},
                                                                             {3, 0, 1},
                                                                             {1, 50, 1},
                                                                             {1, 2, 3, 4, 5}}) {
    INFO(fmt::format("weights {}", fmt::join(weights, ":")));
    devices.enable(cpus(weights));
    CHECK(error_of(predict(*model), alone()) <= 1e-5);
  }
}

TEST_CASE("tokens go to the devices by their weights, also those of the last enable()") {
  const auto watched = std::make_shared<Watched>();
  ParallelDevices devices;
  const auto model = devices.parallelise(watched);
  using Sizes = std::vector<int64_t>;
  for (const auto& [weights, sizes] :
       std::vector<std::pair<std::vector<double>, Sizes>>{{{2, 1}, {30, 15}},
                                                          {{1, 2}, {15, 30}},
                                                          {{1, 0, 1, 1}, {15, 15, 15}},
                                                          {{1, 2, 3, 4, 5}, {3, 6, 9, 12, 15}},
                                                          {{4}, {45}}}) {
    devices.enable(cpus(weights));
    watched->seen.clear();
    predict(*model);
    CHECK(watched->seen == std::vector<Sizes>(sizes.size(), sizes));
  }
}

TEST_CASE("a model follows devices that are added, removed and disabled, with one copy of the weights") {
  const int before = source()->loads;
  ParallelDevices devices;
  devices.enable(cpus({1, 1}));
  const auto model = devices.parallelise(source(), at::kFloat);
  const auto names = [&] { return dynamic_cast<SplitDenoiser&>(*model).device_names(); };
  CHECK(names() == "cpu, cpu");
  for (const auto& [weights, expected] : std::vector<std::pair<std::vector<double>, std::string>>{
           {{2, 1}, "cpu, cpu"}, {{2, 1, 1}, "cpu, cpu, cpu"}, {{1, 0, 1}, "cpu, cpu"}, {{7}, "cpu"}}) {
    devices.enable(cpus(weights));
    devices.enable(cpus(weights));
    CHECK(error_of(predict(*model), alone()) <= 1e-5);
    CHECK(names() == expected);
  }
  devices.enable(cpus({1, 1, 1}));
  devices.disable();
  CHECK(error_of(predict(*model), alone()) <= 1e-5);
  CHECK(names() == "cpu");
  CHECK(source()->loads == before + 1);
}

TEST_CASE("a model outlives the list of devices, and is used by several threads") {
  std::shared_ptr<Denoiser> model;
  {
    ParallelDevices devices;
    devices.enable(cpus({2, 1}));
    model = devices.parallelise(source(), at::kFloat);
  }
  const at::Tensor& one = alone();
  std::vector<at::Tensor> got(3);
  std::vector<std::thread> callers;
  for (at::Tensor& mine : got) callers.emplace_back([&] { mine = predict(*model); });
  for (std::thread& caller : callers) caller.join();
  for (const at::Tensor& mine : got) CHECK(error_of(mine, one) <= 1e-5);
}

TEST_CASE("a loaded model is divided without a copy, once") {
  const std::shared_ptr<Denoiser> loaded = source()->load_denoiser({at::kFloat, cpu});
  const int before = source()->loads;
  ParallelDevices devices;
  devices.enable(cpus({2, 1}));
  auto parallel = devices.parallelise(loaded);
  CHECK(error_of(predict(*parallel), alone()) <= 1e-5);
  CHECK(source()->loads == before);
  for (const auto& again : {parallel, loaded}) {
    const auto error = caught([&] { devices.parallelise(again); });
    CHECK(error.code == ExitCode::config);
    CHECK(error.message ==
          "parallelise: this model is parallel already, over cpu, cpu; a model is parallelised once, and "
          "enable() changes its devices");
  }
  CHECK(caught([&] { ParallelDevices().parallelise(parallel); }).has("is parallel already"));
  parallel = nullptr;
  CHECK(error_of(predict(*devices.parallelise(loaded)), alone()) <= 1e-5);
}

TEST_CASE("a loaded model cannot go to a device on which it is not") {
  const std::shared_ptr<Denoiser> loaded = source()->load_denoiser({at::kFloat, cpu});
  ParallelDevices devices;
  devices.enable(cpus({1}));
  const auto error = caught([&] { devices.parallelise(loaded, at::Device("cuda:0")); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has("handed in loaded, on cuda:0, and cpu is enabled; hand in its checkpoint"));
}

TEST_CASE("devices that cannot be enabled are named, and nothing changes") {
  ParallelDevices devices;
  devices.enable(cpus({2, 1}));
  const auto gpus = int(list_devices().size()) - 1;
  const std::string missing = fmt::format("cuda:{}", gpus + 3);
  const auto error = caught([&] { devices.enable({{cpu, 1}, {at::Device(missing), 1}}); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has(fmt::format("there is no device {} here", missing)));
  CHECK(error.has("there are: "));
  CHECK(error.has("cpu ("));
  const auto message = [&](std::vector<DeviceShare> shares) {
    const auto refused = caught([&] { devices.enable(std::move(shares)); });
    CHECK(refused.code == ExitCode::config);
    return refused.message;
  };
  CHECK(message({}) == "enable: no device is given; name at least one, or call disable()");
  CHECK(message(cpus({1, -2})) == "enable: the weight of cpu is -2; give 0 or more, in any unit");
  CHECK(message(cpus({std::nan("")})) == "enable: the weight of cpu is nan; give 0 or more, in any unit");
  CHECK(message(cpus({0, 0})) == "enable: the weights of all 2 devices are 0; one at least must be above 0");
  CHECK(devices.ids().size() == 2);
}
