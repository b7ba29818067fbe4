// What is learnt from a sample: the part of a training that depends on what is trained.
#pragma once

#include <array>
#include <map>

#include "launcher/train/train_job.h"
#include "models/training/sample_store.h"
#include "models/training/train_step.h"
#include "models/training/vae_step.h"

namespace frameshard {

/// Losses of samples, and what they are made of: by noise level, of four equal parts of (0, 1), or an
/// autoencoder's four (VaeLosses).
struct LossSums {
  static constexpr size_t parts = 4;
  double sum = 0, count = 0;
  std::array<double, parts> part_sums{}, part_counts{};

  /// One sample's, by its noise level.
  static LossSums at_level(double level, double loss);
  static LossSums of_autoencoder(const VaeLosses& losses);
  LossSums& operator+=(const LossSums& other);
  double mean() const { return count > 0 ? sum / count : 0; }
};

/// A sample's turn in a step, or an item's in a validation.
struct SamplePass {
  const Dataset* data;
  const SampleStore* store;  ///< null where nothing is encoded beforehand
  size_t item;
  int64_t sample;  ///< whose random numbers are drawn
  double weight;   ///< of its loss
};

class Learner {
 public:
  virtual ~Learner() = default;
  /// Of a pass, in a unit of its own.
  virtual double cost(const SamplePass& pass) const = 0;
  /// Adds the gradients of the losses' sum, each times its pass' weight; of samples of one size. The losses
  /// of each. Collective over the ranks that share the samples.
  virtual std::vector<LossSums> backward(std::span<const SamplePass> passes) const = 0;
  /// Passes of each item in a validation, and the losses of one of them; pass.sample is the number of the
  /// pass over all items. No gradients.
  virtual int64_t validation_passes() const = 0;
  virtual LossSums evaluate(const SamplePass& pass) const = 0;
};

/// Of a denoiser: flow matching on encoded clips. With a text encoder, captions are encoded by it each time,
/// so that it is trained too.
class DenoiserLearner final : public Learner {
 public:
  /// All given must outlive this; `text_encoder` may be null.
  DenoiserLearner(const TrainConfig& config, const Denoiser& denoiser, const TextEncoder* text_encoder,
                  const ModelFacts& facts, const TrainStep& step, double shift)
      : config_(config),
        denoiser_(denoiser),
        text_encoder_(text_encoder),
        facts_(facts),
        step_(step),
        shift_(shift) {}

  double cost(const SamplePass& pass) const override;
  std::vector<LossSums> backward(std::span<const SamplePass> passes) const override;
  int64_t validation_passes() const override { return config_.validation.levels; }
  LossSums evaluate(const SamplePass& pass) const override;

 private:
  /// Embeddings that a pass has made, by caption: each is made once.
  using Texts = std::map<std::string, at::Tensor>;
  at::Tensor text(const SamplePass& pass, bool dropped, Texts& made) const;

  const TrainConfig& config_;
  const Denoiser& denoiser_;
  const TextEncoder* text_encoder_;
  ModelFacts facts_;
  TrainStep step_;
  double shift_;
};

/// Of an autoencoder: clips as they are, or windows of them.
class VaeLearner final : public Learner {
 public:
  /// Both must outlive this.
  VaeLearner(const TrainConfig& config, const Vae& vae, at::Device device)
      : config_(config), step_(vae, config.autoencoder, device) {}

  double cost(const SamplePass& pass) const override;
  std::vector<LossSums> backward(std::span<const SamplePass> passes) const override;
  int64_t validation_passes() const override { return 1; }
  LossSums evaluate(const SamplePass& pass) const override;

 private:
  const TrainConfig& config_;
  VaeStep step_;
};

}  // namespace frameshard
