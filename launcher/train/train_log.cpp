#include "launcher/train/train_log.h"

#include <fstream>

#include <unistd.h>

#include "core/error.h"
#include "core/host.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/io/run_directory.h"
#include "core/io/text_file.h"
#include "core/log.h"
#include "core/progress.h"

namespace frameshard {
namespace {

// Lines of steps, and of what comes after one, that will be done again.
void cut_after(const std::filesystem::path& file, int64_t done) {
  std::ifstream in(file);
  std::string kept;
  for (std::string line; std::getline(in, line);) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) continue;
    const auto step = json.value("step", int64_t(0));
    if (step < done || (step == done && json.contains("loss"))) kept += line + "\n";
  }
  write_file_atomically(file, kept);
}

// A PNG's width is at byte 16, its height at 20 (https://www.w3.org/TR/png-3/#11IHDR), the largest part
// first.
int64_t png_number(const std::string& png, size_t at) {
  int64_t number = 0;
  for (size_t i = at; i < std::min(at + 4, png.size()); ++i) number = number << 8 | uint8_t(png[i]);
  return number;
}

}  // namespace

TrainLog::TrainLog(const TrainJob& job, const TrainAmount& amount, int64_t done)
    : file_(job.directory / "metrics.jsonl"),
      all_steps_(amount.steps()),
      all_samples_(amount.samples()),
      autoencoder_(job.config.trains_vae()),
      terminal_(isatty(STDERR_FILENO) != 0) {
  if (done > 0) {
    cut_after(file_, done);
  } else {
    write_file_atomically(file_, "");
  }
  if (job.config.output.tensorboard) {
    make_output_directory(job.directory / "tensorboard");
    events_.emplace(job.directory / "tensorboard");
    if (done == 0) events_->text(0, "config", "```\n" + dump_yaml(job.config) + "```");
  }
}

std::vector<std::pair<std::string, double>> TrainLog::parts_of(const LossSums& losses) const {
  static constexpr std::array<const char*, LossSums::parts> of_autoencoder{"absolute", "square", "edges",
                                                                           "kl"};
  std::vector<std::pair<std::string, double>> parts;
  for (size_t i = 0; i < LossSums::parts; ++i) {
    if (losses.part_counts[i] == 0) continue;
    parts.emplace_back(autoencoder_ ? of_autoencoder[i] : std::to_string(i),
                       losses.part_sums[i] / losses.part_counts[i]);
  }
  return parts;
}

void TrainLog::write(const std::string& line) {
  append_line(file_, line);
}

void TrainLog::step(const StepReport& report) {
  Json line{{"step", report.step},
            {"samples", report.samples},
            {"epoch", report.epoch},
            {"loss", report.loss},
            {"seconds", report.seconds},
            {"samples_per_second", double(report.batch) / report.seconds},
            {"learning_rate", report.learning_rate},
            {"gradient_norm", report.gradient_norm},
            {"exchange_seconds", report.exchange_seconds},
            {"peak_bytes", report.peak_bytes},
            {"tensor_bytes", report.tensor_bytes}};
  std::vector<std::pair<std::string, double>> scalars{
      {"loss/train", report.loss},
      {"learning_rate", report.learning_rate},
      {"gradient_norm", report.gradient_norm},
      {"samples_per_second", double(report.batch) / report.seconds}};
  for (const auto& [part, mean] : parts_of(report.losses)) {
    line[parts_key()][part] = mean;
    scalars.emplace_back(fmt::format("{}/{}", parts_key(), part), mean);
  }
  write(line.dump());
  if (events_) events_->scalars(report.step, scalars);
  show(report);
}

// A bar that redraws itself on a terminal; elsewhere a line every tenth of the way, and at least every
// minute.
void TrainLog::show(const StepReport& report) {
  const double now = process_seconds(), rate = double(report.batch) / report.seconds;
  rate_ = rate_ == 0 ? rate : 0.9 * rate_ + 0.1 * rate;
  const bool last = report.step == all_steps_;
  const bool tenth = report.step * 10 / all_steps_ != (report.step - 1) * 10 / all_steps_;
  if (!last && now - shown_at_ < (terminal_ ? 0.2 : tenth ? 0 : 60)) return;
  shown_at_ = now;
  const std::string text =
      fmt::format("train {}/{} steps, {} samples, epoch {:.2f}, loss {:.4f}, {:.3g} samples/s, ETA {}",
                  report.step, all_steps_, report.samples, report.epoch, report.loss, rate_,
                  format_duration(double(all_samples_ - report.samples) / rate_));
  log::print(terminal_ ? fmt::format("\r\033[K{}{}", text, last ? "\n" : "") : text + "\n");
}

void TrainLog::validation(int64_t step, const LossSums& losses) {
  Json line{{"step", step}, {"validation_loss", losses.mean()}};
  const std::vector<std::pair<std::string, double>> scalars{{"loss/validation", losses.mean()}};
  for (const auto& [part, mean] : parts_of(losses))
    line[std::string("validation_") + parts_key()][part] = mean;
  write(line.dump());
  if (events_) events_->scalars(step, scalars);
  log::info("validation loss {:.4f} after {} steps", losses.mean(), step);
}

void TrainLog::samples(int64_t step, const std::vector<std::filesystem::path>& videos) {
  for (const auto& video : videos) {
    log::info("sample: {}", video.string());
    const auto preview = video.parent_path() / "preview.png";
    if (!events_ || !std::filesystem::exists(preview)) continue;
    const std::string png = read_text_file(preview, 64 << 20, "a picture");
    events_->image(step, "samples/" + video.parent_path().filename().string(), png, png_number(png, 16),
                   png_number(png, 20));
  }
}

}  // namespace frameshard
