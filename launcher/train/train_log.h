// What a training run says of its course: metrics.jsonl, TensorBoard's event file, and lines or a bar on the
// terminal.
#pragma once

#include <array>
#include <chrono>
#include <fstream>
#include <memory>
#include <optional>

#include "core/io/event_file.h"
#include "launcher/train/train_job.h"

namespace frameshard {

/// Losses of samples by their noise level: four equal parts of (0, 1).
struct LevelLosses {
  static constexpr size_t parts = 4;
  std::array<double, parts> sums{}, counts{};
  void add(double level, double loss);
  double count() const;
  double mean() const;  ///< of all samples; 0 without any
};

struct StepReport {
  int64_t step = 0, samples = 0;  ///< that are done
  double epoch = 0, loss = 0, seconds = 0, learning_rate = 0, gradient_norm = 0;
  int64_t batch = 0;
  double exchange_seconds = 0;  ///< of this rank, in collectives, waiting included
  int64_t peak_bytes = 0;       ///< of this rank, since the process began
  LevelLosses levels;
};

/// On rank 0.
class TrainLog {
 public:
  /// Goes on after `done` steps: what metrics.jsonl has of later ones is cut off. 74 where it cannot be
  /// written.
  TrainLog(const TrainJob& job, const TrainAmount& amount, int64_t done);
  void step(const StepReport& report);
  void validation(int64_t step, const LevelLosses& losses);
  void samples(int64_t step, const std::vector<std::filesystem::path>& videos);

 private:
  void write(const std::string& line);
  void show(const StepReport& report);

  std::filesystem::path file_;
  std::optional<EventFile> events_;
  int64_t all_steps_, all_samples_;
  bool terminal_;
  double shown_at_ = -1e9, rate_ = 0;  // samples a second, smoothed
};

/// Appends one line; 74 where it cannot.
void append_line(const std::filesystem::path& file, const std::string& line);

}  // namespace frameshard
