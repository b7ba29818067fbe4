#include "models/training/sample_order.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "parallel/work_units.h"

namespace frameshard {
namespace {

// An epoch's order is kept in memory.
constexpr int64_t kMostEpochSamples = 1'000'000'000;

int64_t ceil_divide(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

uint64_t sample_seed(uint64_t seed, int64_t sample) {
  uint64_t z = seed + (uint64_t(sample) + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

SampleOrder::SampleOrder(std::vector<int64_t> repeats, uint64_t seed)
    : repeats_(std::move(repeats)), seed_(seed) {
  for (const int64_t count : repeats_) {
    require(count >= 0, "an item repeats {} times", count);
    if (count > kMostEpochSamples - epoch_samples_) {
      fail(ExitCode::bad_data,
           "an epoch of {} items has more than {} samples with their repeats; lower data.repeats or the "
           "numbers that begin the folders' names",
           repeats_.size(), kMostEpochSamples);
    }
    epoch_samples_ += count;
  }
  if (epoch_samples_ == 0) fail(ExitCode::bad_data, "there is no sample to train on; see data:");
}

size_t SampleOrder::item(int64_t sample) const {
  require(sample >= 0, "sample {}", sample);
  const int64_t epoch = sample / epoch_samples_;
  if (epoch != epoch_) {
    order_.clear();
    for (size_t i = 0; i < repeats_.size(); ++i) order_.insert(order_.end(), size_t(repeats_[i]), i);
    // Numbers of their own: those of sample_seed(seed_, ...) make the samples' noise. Fisher-Yates is written
    // out since std::shuffle differs between libraries; the remainder's bias is below 2^-34.
    constexpr uint64_t kOrder = 0x6f72646572;  // "order"
    const uint64_t numbers = sample_seed(sample_seed(seed_ ^ kOrder, 0), epoch);
    for (size_t left = order_.size(); left > 1; --left) {
      std::swap(order_[left - 1], order_[sample_seed(numbers, int64_t(left)) % left]);
    }
    epoch_ = epoch;
  }
  return order_[size_t(sample % epoch_samples_)];
}

TrainAmount::TrainAmount(int64_t epoch_samples, int64_t global_batch, TrainLimits limits)
    : epoch_samples_(epoch_samples), global_batch_(global_batch) {
  require(epoch_samples > 0 && global_batch > 0, "batches of {} samples out of {} in an epoch", global_batch,
          epoch_samples);
  steps_per_epoch_ = ceil_divide(epoch_samples, global_batch);
  constexpr int64_t none = std::numeric_limits<int64_t>::max();
  samples_ = none;
  if (limits.max_epochs) samples_ = std::min(samples_, *limits.max_epochs * epoch_samples);
  if (limits.max_steps) {
    const int64_t epochs = *limits.max_steps / steps_per_epoch_, steps = *limits.max_steps % steps_per_epoch_;
    samples_ = std::min(samples_, epochs * epoch_samples + steps * global_batch);
  }
  samples_ = std::min(samples_, limits.max_samples.value_or(none));
  if (samples_ == none) samples_ = epoch_samples;
  require(samples_ > 0, "{} samples to train", samples_);
  steps_ = samples_ / epoch_samples * steps_per_epoch_ + ceil_divide(samples_ % epoch_samples, global_batch);
}

Batch TrainAmount::batch(int64_t step) const {
  require(step >= 0 && step < steps_, "step {} of {}", step, steps_);
  const int64_t epoch = epoch_of(step);
  const int64_t begin = epoch * epoch_samples_ + step % steps_per_epoch_ * global_batch_;
  return {begin, std::min({begin + global_batch_, (epoch + 1) * epoch_samples_, samples_})};
}

std::vector<std::vector<int64_t>> deal_batch(std::span<const double> costs, std::span<const double> speeds) {
  std::vector<std::vector<int64_t>> groups;
  for (const auto& samples : schedule(costs, speeds)) groups.emplace_back(samples.begin(), samples.end());
  return groups;
}

}  // namespace frameshard
