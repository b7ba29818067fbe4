// A small model with random weights, of which each process makes the same one in a place of its own.
#pragma once

#include "core/rng.h"
#include "models/checkpoint.h"
#include "models/pipeline.h"
#include "tests/support/random_folder.h"
#include "tests/support/scratch.h"

namespace frameshard::testing {

class SmallModel {
 public:
  explicit SmallModel(at::ScalarType dtype = at::kFloat) {
    write_random_folder(folder_.path(), {},
                        std::filesystem::path(FRAMESHARD_SOURCE_DIR) / "examples/shapes/tokenizer");
    checkpoint_ = open_checkpoint(folder_.path());
    denoiser_ = checkpoint_->load_denoiser({dtype, at::Device(at::kCPU)});
  }

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  Denoiser& denoiser() { return *denoiser_; }
  const Denoiser& denoiser() const { return *denoiser_; }
  /// Random embeddings of 20 tokens each, of so many prompts and the negative one.
  Conditioning text(int prompts = 1) const {
    Conditioning text{.cond = {}, .uncond = initial_noise({1, 20, 32}, 72)};
    for (int i = 0; i < prompts; ++i)
      text.cond.push_back(initial_noise({1, 20, 32}, i == 0 ? 71 : uint64_t(80 + i)));
    return text;
  }

 private:
  frameshard::test::Scratch folder_;
  CheckpointPtr checkpoint_;
  std::unique_ptr<Denoiser> denoiser_;
};

}  // namespace frameshard::testing
