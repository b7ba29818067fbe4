// What happens between steps: states, validation, videos, results.
#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/host.h"
#include "core/io/run_directory.h"
#include "core/phase.h"
#include "core/stop.h"
#include "launcher/train/trainer.h"
#include "parallel/comm/settle.h"

namespace frameshard {

void Trainer::after_step(int64_t step) {
  const CheckpointConfig& checkpoint = job_.config.checkpoint;
  const int64_t done = step + 1;
  const bool epoch = plan_->amount.ends_epoch(step), last = done == plan_->amount.steps();
  auto due = [&](const std::optional<int64_t>& every) { return every && done % *every == 0; };
  const bool stop = on_any(stop_requested(), world_);
  const bool late = checkpoint.every_minutes &&
                    on_any(process_seconds() - saved_at_ > 60 * *checkpoint.every_minutes, world_);
  // The state first: whatever fails after it can be repeated.
  const bool save = due(checkpoint.every_steps) || (epoch && checkpoint.every_epoch) || late || stop;
  if (save && !last) save_state(done);
  if (stop && !last)
    fail(ExitCode::stopped, "stopped by a signal after step {}; the same command goes on from here", done);

  if (validation_ && (last || done % job_.config.validation.every_steps == 0)) validate(done);
  if (due(job_.config.sample.every_steps.value) && drawer_) {
    draw_samples(done, job_.directory / "samples" / fmt::format("step-{:08}", done));
  }
  if (epoch) end_epoch(step);
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

// Always the same noise: the loss of two models can be compared.
void Trainer::validate(int64_t step) {
  const c10::NoGradGuard no_grad;
  set_phase("validate");
  LevelLosses losses;
  const auto weights = parameters_->whole();
  const int64_t levels = job_.config.validation.levels, count = int64_t(job_.validation->items().size());
  for (int64_t i = 0; i < count * levels; ++i) {
    const auto item = size_t(i / levels);
    if (!validation_->usable(item) || i % plan_->mesh.dp != mesh_->coord().dp) continue;
    const at::Tensor latents = validation_->latents(item);
    const double level = (double(i % levels) + 0.5) / double(levels);
    const SampleDraw draw = draw_sample(sample_seed(0, i), latents.sizes(), job_.config.noise, shift_);
    losses.add(level, step_->loss({noised(latents, level, draw.noise), validation_->text(item)}));
  }
  losses = sum_over_ranks(losses);
  if (first()) log_->validation(step, losses);
}

void Trainer::draw_samples(int64_t step, const std::filesystem::path& directory) {
  const auto weights = parameters_->whole();
  const auto videos = drawer_->draw(*denoiser_, directory);
  if (first()) log_->samples(step, videos);
}

void Trainer::save_state(int64_t step) {
  set_phase("save", step, plan_->amount.steps());
  const auto states = job_.directory / "state";
  save_train_state(states, position_, *parameters_, *optimizer_, world_);
  if (first()) prune_train_states(states, job_.config.checkpoint.keep);
  saved_at_ = process_seconds();
}

// The average of the weights, where there is one, else the weights.
void Trainer::write_result(const std::filesystem::path& path) {
  const auto weights = parameters_->whole();
  at::Tensor average;
  if (job_.config.train.ema > 0) {
    average = at::zeros({parameters_->elements()}, at::TensorOptions().device(device_));
    const auto pieces = optimizer_->state(parameters_->shards()).at("ema");
    for (size_t i = 0; i < pieces.size(); ++i) {
      const ParameterShard& shard = parameters_->shards()[i];
      average.narrow(0, shard.begin, shard.end - shard.begin).copy_(pieces[i]);
    }
    if (plan_->zero > 0) gradients_->all_reduce(average);
  }
  if (first()) model_->write(path, average, job_);
  world_.barrier();
}

}  // namespace frameshard
