// Which sample comes when: pure accounting, the same on every rank and for every number of ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace frameshard {

/// An epoch is every item once, times its repeats, in an order drawn from the seed and the epoch's number.
class SampleOrder {
 public:
  /// 65 where nothing is to be trained on.
  SampleOrder(std::vector<int64_t> repeats, uint64_t seed);
  int64_t epoch_samples() const { return epoch_samples_; }
  /// The item of a sample, counted over all epochs from 0. Keeps the order of the last epoch that was asked
  /// for.
  size_t item(int64_t sample) const;

 private:
  std::vector<int64_t> repeats_;
  uint64_t seed_;
  int64_t epoch_samples_ = 0;
  mutable int64_t epoch_ = -1;
  mutable std::vector<size_t> order_;
};

/// How much is trained: the smallest of the limits that are given; one epoch where none is.
struct TrainLimits {
  std::optional<int64_t> max_epochs, max_steps, max_samples;
};

/// A step's samples [begin, end). A batch ends where its epoch does, so that the last of an epoch may be
/// smaller.
struct Batch {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

class TrainAmount {
 public:
  TrainAmount(int64_t epoch_samples, int64_t global_batch, TrainLimits limits);
  int64_t samples() const { return samples_; }
  int64_t steps() const { return steps_; }
  double epochs() const { return double(samples_) / double(epoch_samples_); }
  /// Of step `step`, from 0.
  Batch batch(int64_t step) const;
  int64_t epoch_of(int64_t step) const { return step / steps_per_epoch_; }
  /// The epoch's last step.
  bool ends_epoch(int64_t step) const { return (step + 1) % steps_per_epoch_ == 0; }

 private:
  int64_t epoch_samples_, global_batch_, steps_per_epoch_, samples_ = 0, steps_ = 0;
};

/// The samples of a batch dealt to `speeds.size()` groups of ranks by cost over speed (schedule() of
/// work_units.h): `costs` one a sample of the batch; the result has each group's samples, as indices into the
/// batch, in rising order. A group may get none.
std::vector<std::vector<int64_t>> deal_batch(std::span<const double> costs, std::span<const double> speeds);

/// Of everything that is drawn for a sample: 64 well-mixed bits from the run's seed and the sample's number
/// (splitmix64, https://doi.org/10.1145/2714064.2660195: the (sample + 1)-th value of the stream that begins
/// at seed).
uint64_t sample_seed(uint64_t seed, int64_t sample);

}  // namespace frameshard
