#include "launcher/train/learner.h"

#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/training/sample_order.h"
#include "parallel/plan.h"

namespace frameshard {

LossSums LossSums::at_level(double level, double loss) {
  const auto part = std::min(parts - 1, size_t(level * double(parts)));
  LossSums one{.sum = loss, .count = 1};
  one.part_sums[part] = loss;
  one.part_counts[part] = 1;
  return one;
}

LossSums LossSums::of_autoencoder(const VaeLosses& losses) {
  LossSums one{.sum = losses.total, .count = 1};
  one.part_sums = {losses.absolute, losses.square, losses.edges, losses.kl};
  one.part_counts.fill(1);
  return one;
}

LossSums& LossSums::operator+=(const LossSums& other) {
  sum += other.sum;
  count += other.count;
  for (size_t i = 0; i < parts; ++i) {
    part_sums[i] += other.part_sums[i];
    part_counts[i] += other.part_counts[i];
  }
  return *this;
}

double DenoiserLearner::cost(const SamplePass& pass) const {
  const ClipSize& size = pass.data->items()[pass.item].size;
  const auto tokens = denoiser_.token_count(denoiser_.latent_shape(size.frames, size.height, size.width));
  return denoiser_operations(facts_, tokens, tokens, config_.data.max_sequence_length);
}

at::Tensor DenoiserLearner::text(const SamplePass& pass, bool dropped, Texts& made) const {
  if (!text_encoder_) return dropped ? pass.store->empty_text() : pass.store->text(pass.item);
  const std::string caption = dropped ? "" : pass.data->items()[pass.item].caption;
  at::Tensor& embedding = made[caption];
  if (!embedding.defined()) embedding = text_encoder_->encode(caption, config_.data.max_sequence_length);
  return embedding;
}

std::vector<LossSums> DenoiserLearner::backward(std::span<const SamplePass> passes) const {
  const c10::AutoGradMode grad(true);  // for the text encoder's part
  TrainPass prepared;
  Texts made;
  std::vector<double> weights;
  for (const SamplePass& pass : passes) {
    const at::Tensor latents = pass.store->latents(pass.item);
    const SampleDraw draw = draw_sample(sample_seed(uint64_t(config_.train.seed), pass.sample),
                                        latents.sizes(), config_.noise, shift_);
    prepared.samples.push_back(noised(latents, draw.level, draw.noise));
    prepared.texts.push_back(text(pass, draw.dropout < config_.train.caption_dropout, made));
    weights.push_back(pass.weight);
  }
  const std::vector<double> losses = step_.backward(prepared, weights);
  std::vector<LossSums> sums;
  for (size_t i = 0; i < losses.size(); ++i) {
    sums.push_back(LossSums::at_level(prepared.samples[i].level, losses[i]));
  }
  return sums;
}

// Always the same noise: the loss of two models can be compared.
LossSums DenoiserLearner::evaluate(const SamplePass& pass) const {
  const c10::NoGradGuard no_grad;
  const at::Tensor latents = pass.store->latents(pass.item);
  const int64_t levels = validation_passes();
  const double level = (double(pass.sample % levels) + 0.5) / double(levels);
  const SampleDraw draw = draw_sample(sample_seed(0, pass.sample), latents.sizes(), config_.noise, shift_);
  Texts made;
  const TrainPass prepared{{noised(latents, level, draw.noise)}, {text(pass, /*dropped=*/false, made)}};
  return LossSums::at_level(level, step_.losses(prepared).front());
}

namespace {

// Odd numbers are a class' (Dreambooth): by them not every window would have its turn.
int64_t turn(const SamplePass& pass) {
  return pass.sample / 2;
}

}  // namespace

double VaeLearner::cost(const SamplePass& pass) const {
  const ClipSize& size = pass.data->items()[pass.item].size;
  return double(window_length(size.frames, config_.autoencoder.windows, turn(pass)) * size.height *
                size.width);
}

std::vector<LossSums> VaeLearner::backward(std::span<const SamplePass> passes) const {
  const auto seed = uint64_t(config_.train.seed);
  std::vector<LossSums> sums;
  for (const SamplePass& pass : passes) {
    const at::Tensor frames =
        training_window(pass.data->frames(pass.item), config_.autoencoder.windows, turn(pass), seed);
    const auto noise = [&](at::IntArrayRef shape) {
      return initial_noise(shape, sample_seed(seed, pass.sample));
    };
    sums.push_back(LossSums::of_autoencoder(step_.backward(frames, noise, pass.weight)));
  }
  return sums;
}

LossSums VaeLearner::evaluate(const SamplePass& pass) const {
  return LossSums::of_autoencoder(step_.losses(pass.data->frames(pass.item)));
}

}  // namespace frameshard
