// A small model to be divided over devices of one process, which here are all the CPU.
#pragma once

#include <atomic>

#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/parallel_devices.h"
#include "parallel/comm/self.h"
#include "parallel/strategies.h"
#include "tests/support/catch.h"
#include "tests/support/random_folder.h"
#include "tests/support/scratch.h"

namespace frameshard::testing {

inline const at::Device cpu(at::kCPU);
// By its number another device for the list, and the same one for tensors.
inline const at::Device other_cpu(at::kCPU, 0);

// Counts what is loaded.
class CountingSource final : public DenoiserSource {
 public:
  CountingSource() {
    write_random_folder(folder_.path(), {},
                        std::filesystem::path(FRAMESHARD_SOURCE_DIR) / "examples/shapes/tokenizer");
    checkpoint_ = open_checkpoint(folder_.path());
  }
  ModelFacts facts(at::ScalarType dtype, at::ScalarType vae_dtype) const override {
    return checkpoint_->facts(dtype, vae_dtype);
  }
  std::unique_ptr<Denoiser> denoiser_without_weights() const override {
    return checkpoint_->denoiser_without_weights();
  }
  std::unique_ptr<Denoiser> load_denoiser(const LoadOptions& options) const override {
    ++loads;
    return checkpoint_->load_denoiser(options);
  }
  std::unique_ptr<NoiseSchedule> schedule(const SchedulerConfig& overrides, int64_t steps) const override {
    return checkpoint_->schedule(overrides, steps);
  }

  mutable std::atomic<int> loads = 0;

 private:
  frameshard::test::Scratch folder_;
  CheckpointPtr checkpoint_;
};

inline std::shared_ptr<CountingSource> source() {
  static const auto one = std::make_shared<CountingSource>();
  return one;
}

inline std::vector<DeviceShare> cpus(const std::vector<double>& weights) {
  std::vector<DeviceShare> shares;
  for (double weight : weights) shares.push_back({cpu, weight});
  return shares;
}

// 45 tokens, as one rank is asked for them.
inline at::Tensor predict(const Denoiser& model, StepCache* cache = nullptr, double timestep = 423) {
  const c10::NoGradGuard no_grad;
  const CommPtr self = make_self_communicator();
  const AttentionStrategy attention(*self, {});
  const ParallelSequence sequence(*self, *attention, attention.divide(45));
  const TextContext text = model.prepare(initial_noise({1, 20, 32}, 71));
  return model.predict(initial_noise({1, 16, 3, 10, 6}, 73), at::full({1}, timestep), text, sequence, cache);
}

inline double error_of(const at::Tensor& got, const at::Tensor& one) {
  REQUIRE(got.sizes() == one.sizes());
  return ((got - one).norm() / one.norm()).item<double>();
}

inline const at::Tensor& alone() {
  static const at::Tensor one = predict(*source()->load_denoiser({at::kFloat, cpu}));
  return one;
}

}  // namespace frameshard::testing
