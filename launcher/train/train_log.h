// What a training run says of its course: metrics.jsonl, TensorBoard's event file, and lines or a bar on the
// terminal.
#pragma once

#include <optional>

#include "core/io/event_file.h"
#include "launcher/train/learner.h"

namespace frameshard {

struct StepReport {
  int64_t step = 0, samples = 0;  ///< that are done
  double epoch = 0, loss = 0, seconds = 0, learning_rate = 0, gradient_norm = 0;
  int64_t batch = 0;
  double exchange_seconds = 0;  ///< of this rank, in collectives, waiting included
  int64_t peak_bytes = 0;       ///< of this rank, since the process began
  int64_t tensor_bytes = 0;  ///< the most that tensors of this process took in this step: what the plan says
  LossSums losses;
};

/// On rank 0.
class TrainLog {
 public:
  /// Goes on after `done` steps: what metrics.jsonl has of later ones is cut off. 74 where it cannot be
  /// written.
  TrainLog(const TrainJob& job, const TrainAmount& amount, int64_t done);
  void step(const StepReport& report);
  void validation(int64_t step, const LossSums& losses);
  void samples(int64_t step, const std::vector<std::filesystem::path>& videos);

 private:
  /// Of the parts that there are: name and mean.
  std::vector<std::pair<std::string, double>> parts_of(const LossSums& losses) const;
  const char* parts_key() const { return autoencoder_ ? "loss_parts" : "loss_by_level"; }
  void write(const std::string& line);
  void show(const StepReport& report);

  std::filesystem::path file_;
  std::optional<EventFile> events_;
  int64_t all_steps_, all_samples_;
  bool autoencoder_;
  bool terminal_;
  double shown_at_ = -1e9, rate_ = 0;  // samples a second, smoothed
};

}  // namespace frameshard
