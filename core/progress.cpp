#include "core/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include "core/log.h"

namespace frameshard {

std::string format_duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = int64_t(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

Progress::Progress(std::string label, int64_t total, bool visible, int64_t done)
    : label_(std::move(label)),
      total_(total),
      before_(done),
      done_(done),
      visible_(visible),
      terminal_(isatty(STDERR_FILENO)),
      start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  // Leave an unfinished bar on its own line, so that an error message does not continue it.
  if (visible_ && terminal_ && done_ > before_ && done_ < total_) log::print("\n");
}

void Progress::advance() {
  ++done_;
  if (visible_) show(done_ == total_);
}

void Progress::show(bool last) {
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
  const double each = spent.count() / double(done_ - before_);
  const std::string rest = last ? "total " + format_duration(spent.count())
                                : "ETA " + format_duration(each * double(total_ - done_));
  std::string line = fmt::format("{} {:>{}}/{}", label_, done_, fmt::formatted_size("{}", total_), total_);
  if (terminal_) {
    constexpr int width = 30;
    const auto filled = int(width * done_ / total_);
    line += fmt::format(" [{}{}]", std::string(filled, '#'), std::string(width - filled, '.'));
  }
  line += fmt::format("  {:.3f} s/step  {}", each, rest);
  log::print(fmt::format("{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ && !last ? "" : "\n"));
}

}  // namespace frameshard
