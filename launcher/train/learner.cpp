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

double DenoiserLearner::cost(const ClipSize& size) const {
  const auto tokens = denoiser_.token_count(denoiser_.latent_shape(size.frames, size.height, size.width));
  return denoiser_operations(facts_, tokens, tokens, config_.data.max_sequence_length);
}

at::Tensor DenoiserLearner::text(const SamplePass& pass, bool dropped) const {
  if (text_encoder_) {
    const std::string& caption = pass.data->items()[pass.item].caption;
    return text_encoder_->encode(dropped ? "" : caption, config_.data.max_sequence_length);
  }
  return dropped ? pass.store->empty_text() : pass.store->text(pass.item);
}

std::vector<LossSums> DenoiserLearner::backward(std::span<const SamplePass> passes) const {
  const c10::AutoGradMode grad(true);  // for the text encoder's part
  TrainPass prepared;
  std::vector<double> weights;
  for (const SamplePass& pass : passes) {
    const at::Tensor latents = pass.store->latents(pass.item);
    const SampleDraw draw = draw_sample(sample_seed(uint64_t(config_.train.seed), pass.sample),
                                        latents.sizes(), config_.noise, shift_);
    prepared.samples.push_back(noised(latents, draw.level, draw.noise));
    prepared.texts.push_back(text(pass, draw.dropout < config_.train.caption_dropout));
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
  const TrainPass prepared{{noised(latents, level, draw.noise)}, {text(pass, /*dropped=*/false)}};
  return LossSums::at_level(level, step_.losses(prepared).front());
}

std::vector<LossSums> VaeLearner::backward(std::span<const SamplePass> passes) const {
  const auto seed = uint64_t(config_.train.seed);
  std::vector<LossSums> sums;
  for (const SamplePass& pass : passes) {
    // Odd numbers are a class' (Dreambooth): all windows would not have their turn.
    const at::Tensor frames =
        training_window(pass.data->frames(pass.item), config_.autoencoder.windows, pass.sample / 2, seed);
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
