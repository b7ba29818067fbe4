// The steps.
#include "launcher/train/trainer.h"

#include <cmath>

#include "core/device.h"
#include "core/error.h"
#include "core/phase.h"
#include "core/stopwatch.h"
#include "core/tensor_memory.h"

namespace frameshard {

Trained Trainer::run() {
  const int64_t steps = plan_->amount.steps();
  // It may have ended between the state and what comes after it.
  if (position_.step > 0) events(position_.step - 1);
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
    costs.push_back(learner_->cost(data_.pass(data_.items[data_.order->item(sample)], 2 * sample, 1)));
  }
  return deal_batch(costs, plan_->speeds);
}

// A subject's samples have one of its class beside each. Samples of one size go together, as many as
// micro_batch says.
std::vector<Trainer::Passes> Trainer::passes_of(const Batch& batch, const std::vector<int64_t>& mine) const {
  std::map<ClipSize, Passes> by_size;
  auto add = [&](const SamplePass& pass) { by_size[pass.data->items()[pass.item].size].push_back(pass); };
  const double share = 1.0 / double(batch.count());
  for (int64_t index : mine) {
    const int64_t sample = batch.begin + index;
    add(data_.pass(data_.items[data_.order->item(sample)], 2 * sample, share));
    if (!prior_) continue;
    add(prior_->pass(prior_->items[prior_->order->item(sample)], 2 * sample + 1,
                     share * job_.config.dreambooth.prior_loss_weight));
  }
  const auto most = size_t(job_.config.train.micro_batch);
  std::vector<Passes> groups;
  for (const auto& [size, passes] : by_size) {
    for (size_t begin = 0; begin < passes.size(); begin += most) {
      const size_t end = std::min(begin + most, passes.size());
      groups.emplace_back(passes.begin() + long(begin), passes.begin() + long(end));
    }
  }
  return groups;
}

// `idle` passes are made by other ranks: with ZeRO 3 the weights that they gather are partly here.
LossSums Trainer::compute(const std::vector<Passes>& groups, int64_t idle) {
  LossSums losses;
  for (int64_t i = 0; i < idle; ++i) blocks_->idle_pass();
  for (size_t i = 0; i < groups.size(); ++i) {
    if (i + 1 == groups.size()) parameters_->sum_next_backward();
    const std::vector<LossSums> own = learner_->backward(groups[i]);
    for (size_t j = 0; j < own.size(); ++j) {
      if (groups[i][j].weight > 0 && groups[i][j].data == data_.all) losses += own[j];
    }
  }
  return losses;
}

LossSums Trainer::sum_over_ranks(const LossSums& mine) {
  constexpr auto parts = int64_t(LossSums::parts);
  at::Tensor numbers = at::zeros({2 + 2 * parts}, at::kDouble);
  auto* data = numbers.data_ptr<double>();
  if (mesh_->coord().cp == 0) {  // all ranks of a sample have the same
    data[0] = mine.sum;
    data[1] = mine.count;
    std::copy(mine.part_sums.begin(), mine.part_sums.end(), data + 2);
    std::copy(mine.part_counts.begin(), mine.part_counts.end(), data + 2 + parts);
  }
  world_.all_reduce(numbers);
  LossSums all{.sum = data[0], .count = data[1]};
  std::copy(data + 2, data + 2 + parts, all.part_sums.begin());
  std::copy(data + 2 + parts, data + 2 + 2 * parts, all.part_counts.begin());
  return all;
}

void Trainer::one_step(int64_t step) {
  Stopwatch watch;
  const double exchanged = exchange_seconds();
  const Batch batch = plan_->amount.batch(step);
  const auto dealt = deal(batch);
  std::vector<Passes> groups = passes_of(batch, dealt[size_t(mesh_->coord().dp)]);
  size_t most = 0;
  for (const auto& each : dealt) most = std::max(most, passes_of(batch, each).size());
  peak_bytes_ = std::max(peak_bytes_, peak_memory(device_));  // on a GPU the next line begins it anew
  reset_peak_tensor_bytes(device_);
  parameters_->begin_step();
  if (plan_->zero == 3 && groups.empty()) {
    groups.push_back({data_.pass(data_.items[0], 0, /*weight=*/0)});
  }
  const int64_t idle = plan_->zero == 3 ? int64_t(most - groups.size()) : 0;
  const LossSums mine = compute(groups, idle);
  parameters_->finish_gradients();  // before any other collective: ranks may have unequal numbers of passes
  const LossSums losses = sum_over_ranks(mine);
  const double norm = Optimizer::gradient_norm(parameters_->shards(), plan_->zero > 0, *gradients_);
  if (!std::isfinite(norm) || !std::isfinite(losses.mean())) {
    fail(ExitCode::not_finite,
         "step {}: the loss is {} and the gradient's length {}; the newest state stays as it is. A lower "
         "optimizer.learning_rate, a longer optimizer.warmup_samples or clean data are the usual cures",
         step + 1, losses.mean(), norm);
  }
  const double rate = learning_rate(job_.config.optimizer, batch, plan_->amount.samples());
  optimizer_->step(parameters_->shards(), rate, norm);
  parameters_->publish();
  synchronize(device_);
  position_.step = step + 1;
  position_.samples = batch.end;
  peak_bytes_ = std::max(peak_bytes_, peak_memory(device_));
  if (!first()) return;
  log_->step({.step = step + 1,
              .samples = batch.end,
              .epoch = double(batch.end) / double(data_.order->epoch_samples()),
              .loss = losses.mean(),
              .seconds = watch.lap(),
              .learning_rate = rate,
              .gradient_norm = norm,
              .batch = batch.count(),
              .exchange_seconds = exchange_seconds() - exchanged,
              .peak_bytes = peak_bytes_,
              .tensor_bytes = peak_tensor_bytes(device_),
              .losses = losses});
}

double Trainer::exchange_seconds() {
  return gradients_->stats().seconds + gather_->stats().seconds + mesh_->cp().stats().seconds +
         attention_->seconds();
}

}  // namespace frameshard
