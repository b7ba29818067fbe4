// The steps.
#include "launcher/train/trainer.h"

#include <cmath>

#include "core/device.h"
#include "core/error.h"
#include "core/phase.h"
#include "launcher/video_maker.h"

namespace frameshard {

Trained Trainer::run() {
  const int64_t steps = plan_->amount.steps();
  for (int64_t step = position_.step; step < steps; ++step) {
    set_phase("train", step + 1, steps);
    one_step(step);
    after_step(step);
  }
  set_phase("write");
  write_result(job_.result());
  return {job_.result()};
}

std::vector<std::vector<int64_t>> Trainer::deal(const Batch& batch) const {
  std::vector<double> costs;
  for (int64_t sample = batch.begin; sample < batch.end; ++sample) {
    const ClipSize& size = job_.data->items()[items_[order_->item(sample)]].size;
    const auto tokens = denoiser_->token_count(denoiser_->latent_shape(size.frames, size.height, size.width));
    costs.push_back(denoiser_operations(facts_->model, tokens, tokens, facts_->text_tokens));
  }
  return deal_batch(costs, plan_->speeds);
}

// A subject's samples have one of its class beside each.
std::vector<Trainer::Pass> Trainer::passes_of(const Batch& batch, const std::vector<int64_t>& mine) const {
  std::vector<Pass> passes;
  const double share = 1.0 / double(batch.count());
  for (int64_t index : mine) {
    const int64_t sample = batch.begin + index;
    passes.push_back({&*data_, items_[order_->item(sample)], 2 * sample, share});
    if (!prior_) continue;
    passes.push_back({&*prior_, prior_items_[prior_order_->item(sample)], 2 * sample + 1,
                      share * job_.config.dreambooth.prior_loss_weight});
  }
  return passes;
}

TrainPass Trainer::prepared(const Pass& pass) const {
  const at::Tensor latents = pass.store->latents(pass.item);
  const SampleDraw draw = draw_sample(sample_seed(uint64_t(job_.config.train.seed), pass.sample),
                                      latents.sizes(), job_.config.noise, shift_);
  const bool dropped = draw.dropout < job_.config.train.caption_dropout;
  return {noised(latents, draw.level, draw.noise),
          dropped ? pass.store->empty_text() : pass.store->text(pass.item)};
}

// `idle` passes are made by other ranks: with ZeRO 3 the weights that they gather are partly here.
LevelLosses Trainer::compute(const std::vector<Pass>& passes, int64_t idle) {
  LevelLosses losses;
  for (int64_t i = 0; i < idle; ++i) blocks_->idle_pass();
  for (size_t i = 0; i < passes.size(); ++i) {
    if (i + 1 == passes.size()) parameters_->sum_next_backward();
    const TrainPass pass = prepared(passes[i]);
    const double loss = step_->backward(pass, passes[i].weight);
    if (passes[i].weight > 0 && passes[i].store == &*data_) losses.add(pass.sample.level, loss);
  }
  return losses;
}

LevelLosses Trainer::sum_over_ranks(const LevelLosses& mine) {
  at::Tensor numbers = at::zeros({2 * int64_t(LevelLosses::parts)}, at::kDouble);
  auto* data = numbers.data_ptr<double>();
  if (mesh_->coord().cp == 0) {  // all ranks of a sample have the same
    std::copy(mine.sums.begin(), mine.sums.end(), data);
    std::copy(mine.counts.begin(), mine.counts.end(), data + LevelLosses::parts);
  }
  world_.all_reduce(numbers);
  LevelLosses all;
  std::copy(data, data + LevelLosses::parts, all.sums.begin());
  std::copy(data + LevelLosses::parts, data + 2 * LevelLosses::parts, all.counts.begin());
  return all;
}

void Trainer::one_step(int64_t step) {
  Stopwatch watch;
  const double exchanged = exchange_seconds();
  const Batch batch = plan_->amount.batch(step);
  const auto dealt = deal(batch);
  std::vector<Pass> passes = passes_of(batch, dealt[size_t(mesh_->coord().dp)]);
  int64_t most = 0;
  for (const auto& each : dealt) most = std::max(most, int64_t(each.size()) * (prior_ ? 2 : 1));
  parameters_->begin_step();
  if (plan_->zero == 3 && passes.empty()) passes.push_back({&*data_, items_[0], 0, /*weight=*/0});
  const int64_t idle = plan_->zero == 3 ? most - int64_t(passes.size()) : 0;
  const LevelLosses mine = compute(passes, idle);
  parameters_->finish_gradients();  // before any other collective: ranks may have unequal numbers of passes
  const LevelLosses losses = sum_over_ranks(mine);
  const double norm = Optimizer::gradient_norm(parameters_->shards(), plan_->zero > 0, *gradients_);
  if (!std::isfinite(norm) || !std::isfinite(losses.mean())) {
    fail(ExitCode::not_finite,
         "step {}: the loss is {} and the gradient's length {}; the newest state stays as it is. A lower "
         "optimizer.learning_rate, a longer optimizer.warmup_samples or clean data are the usual cures",
         step + 1, losses.mean(), norm);
  }
  const double rate = learning_rate(job_.config.optimizer, batch.end, plan_->amount.samples());
  optimizer_->step(parameters_->shards(), rate, norm);
  parameters_->publish();
  synchronize(device_);
  position_.step = step + 1;
  position_.samples = batch.end;
  if (!first()) return;
  log_->step({.step = step + 1,
              .samples = batch.end,
              .epoch = double(batch.end) / double(order_->epoch_samples()),
              .loss = losses.mean(),
              .seconds = watch.lap(),
              .learning_rate = rate,
              .gradient_norm = norm,
              .batch = batch.count(),
              .exchange_seconds = exchange_seconds() - exchanged,
              .peak_bytes = peak_memory(device_),
              .levels = losses});
}

double Trainer::exchange_seconds() {
  return gradients_->stats().seconds + gather_->stats().seconds + mesh_->cp().stats().seconds +
         attention_->seconds();
}

}  // namespace frameshard
