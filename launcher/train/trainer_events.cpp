// What happens between steps: states, validation, videos, results.
#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/failure.h"
#include "core/host.h"
#include "core/io/run_directory.h"
#include "core/log.h"
#include "core/phase.h"
#include "core/stop.h"
#include "launcher/train/trainer.h"
#include "parallel/comm/settle.h"

namespace frameshard {
namespace {

bool due(const std::optional<int64_t>& every, int64_t done) {
  return every && done % *every == 0;
}

}  // namespace

void Trainer::after_step(int64_t step) {
  const CheckpointConfig& checkpoint = job_.config.checkpoint;
  const int64_t done = step + 1;
  const bool last = done == plan_->amount.steps();
  if (on_any(stop_requested(), world_) && !last) stop(done);
  const bool late = checkpoint.every_minutes &&
                    on_any(process_seconds() - saved_at_ > 60 * *checkpoint.every_minutes, world_);
  const bool save =
      due(checkpoint.every_steps, done) || late || (checkpoint.every_epoch && plan_->amount.ends_epoch(step));
  // The state first: who goes on from it repeats what follows.
  if (last) {
    save_last_state(done);
  } else if (save) {
    save_state(done);
  }
  events(step);
}

// Twice does no harm.
void Trainer::events(int64_t step) {
  const int64_t done = step + 1;
  const bool last = done == plan_->amount.steps();
  if (validation_ && (last || done % job_.config.validation.every_steps == 0)) validate(done);
  if (due(job_.config.sample.every_steps.value, done) && drawer_) {
    draw_samples(done, job_.directory / "samples" / fmt::format("step-{:08}", done));
  }
  if (plan_->amount.ends_epoch(step)) end_epoch(step);
}

void Trainer::stop(int64_t step) {
  save_state(step);
  fail(ExitCode::stopped, "stopped by a signal after step {}; the same command goes on from here", step);
}

void Trainer::end_epoch(int64_t step) {
  const auto folder =
      job_.directory / "epochs" / fmt::format("epoch-{:04}", plan_->amount.epoch_of(step) + 1);
  const bool draws = drawer_ && job_.config.sample.every_steps.is_auto();
  if (!job_.config.checkpoint.every_epoch && !draws) return;
  if (first()) make_output_directory(folder);
  if (job_.config.checkpoint.every_epoch) write_result(folder / job_.result().filename());
  if (draws) draw_samples(step + 1, folder);
}

void Trainer::validate(int64_t step) {
  set_phase("validate");
  LossSums losses;
  const auto weights = parameters_->whole();
  const int64_t passes = learner_->validation_passes();
  for (size_t item : validation_->items) {
    for (int64_t i = int64_t(item) * passes; i < int64_t(item + 1) * passes; ++i) {
      if (i % plan_->mesh.dp != mesh_->coord().dp) continue;
      losses += learner_->evaluate(validation_->pass(item, i, /*weight=*/1));
    }
  }
  losses = sum_over_ranks(losses);
  if (first()) log_->validation(step, losses);
}

void Trainer::draw_samples(int64_t step, const std::filesystem::path& directory) {
  const auto weights = parameters_->whole();
  if (text_encoder_) drawer_->encode_prompts(text_encoder_);
  const auto videos = drawer_->draw(*denoiser_, directory);
  if (!videos) stop(step);
  if (first()) log_->samples(step, *videos);
}

void Trainer::save_state(int64_t step) {
  set_phase("save", step, plan_->amount.steps());
  const auto states = job_.directory / "state";
  save_train_state(states, position_, *parameters_, *optimizer_, world_);
  if (first()) prune_train_states(states, job_.config.checkpoint.keep);
  saved_at_ = process_seconds();
}

// The result may not find room, and then the same command needs no step for it. Where it is the state that
// finds none, it is the result that counts.
void Trainer::save_last_state(int64_t step) {
  const CheckpointConfig& checkpoint = job_.config.checkpoint;
  if (!checkpoint.every_epoch && !checkpoint.every_steps && !checkpoint.every_minutes) return;
  try {
    save_state(step);
  } catch (...) {
    const Failure failure = current_failure();  // of the same code on all ranks
    if (failure.code != ExitCode::io) throw;
    if (first())
      log::warning("the last step's state could not be saved, and its result is: {}", failure.message);
  }
}

// Flat, in the order of the parameters, in the weights' place.
void Trainer::assign(const at::Tensor& flat) {
  int64_t begin = 0;
  for (const TrainedParameter& parameter : model_->parameters()) {
    const int64_t count = parameter.tensor->numel();
    parameter.tensor->copy_(flat.narrow(0, begin, count).view(parameter.tensor->sizes()));
    begin += count;
  }
}

// A new autoencoder's latents have a mean and a deviation of their own, which denoisers are trained with:
// those of the weights that are written. Of some hundred items.
std::map<std::string, Json> Trainer::latent_settings(const at::Tensor& average) {
  const c10::NoGradGuard no_grad;
  set_phase("latents");
  at::Tensor own;
  if (average.defined()) {
    std::vector<at::Tensor> weights;
    for (const TrainedParameter& parameter : model_->parameters())
      weights.push_back(parameter.tensor->flatten());
    own = at::cat(weights);
    assign(average);
  }
  constexpr size_t most = 512;
  const size_t every = (data_.items.size() + most - 1) / most;
  LatentMoments moments(job_.run.checkpoint->facts(at::kFloat, at::kFloat).latent_channels);
  for (size_t i = every * size_t(world_.rank()); i < data_.items.size(); i += every * size_t(world_.size())) {
    const at::Tensor frames = data_.all->frames(data_.items[i]).to(device_);
    moments.add(vae_->encode(frames).chunk(2, 1)[0].to(at::kCPU));
  }
  world_.all_reduce(moments.sums());
  if (own.defined()) assign(own);
  return {{"latents_mean", moments.mean()}, {"latents_std", moments.deviation()}};
}

// The average of the weights, where there is one, else the weights.
void Trainer::write_result(const std::filesystem::path& path) {
  const auto weights = parameters_->whole();
  TrainedModel::Written written;
  if (job_.config.train.ema > 0) {
    at::Tensor& average = written.average;
    average = at::zeros({parameters_->elements()}, at::TensorOptions().device(device_));
    const auto pieces = optimizer_->state(parameters_->shards()).at("ema");
    for (size_t i = 0; i < pieces.size(); ++i) {
      const ParameterShard& shard = parameters_->shards()[i];
      average.narrow(0, shard.begin, shard.end - shard.begin).copy_(pieces[i]);
    }
    if (plan_->zero > 0) gradients_->all_reduce(average);
  }
  if (vae_ && job_.config.train.from_scratch) written.settings = latent_settings(written.average);
  if (first()) model_->write(path, written, job_);
  world_.barrier();
}

}  // namespace frameshard
