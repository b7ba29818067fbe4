#include "launcher/observe/board.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "core/log.h"
#include "launcher/observe/prometheus.h"
#include "launcher/observe/table.h"

namespace frameshard {
namespace {

constexpr auto redraw_every = std::chrono::milliseconds(500);
constexpr auto print_every = std::chrono::seconds(10);
constexpr auto export_every = std::chrono::milliseconds(500);

// One line stays free for what is printed above the table.
TableSize terminal_size() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row < 2) return {};
  return {.columns = size.ws_col, .lines = size_t(size.ws_row) - 1};
}

}  // namespace

Board::Board(bool watch, std::unique_ptr<Exporter> exporter)
    : watch_(watch), terminal_(isatty(STDERR_FILENO)), exporter_(std::move(exporter)) {
  next_export_ = Clock::now();
  next_show_ = terminal_ ? next_export_ : next_export_ + print_every;
}

Board::~Board() {
  if (exporter_) exporter_->publish(prometheus_text(ranks()));
  if (watch_) log::print(status_table(ranks()));
}

void Board::note(const RankStatus& status) {
  ranks_[status.rank] = status;
  const auto now = Clock::now();
  if (watch_ && now >= next_show_) {
    show();
    next_show_ = now + (terminal_ ? Clock::duration(redraw_every) : print_every);
  }
  if (exporter_ && now >= next_export_) {
    exporter_->publish(prometheus_text(ranks()));
    next_export_ = now + export_every;
  }
}

void Board::show() const {
  if (terminal_) return log::show_live(status_table(ranks(), terminal_size()));
  log::print(status_table(ranks()));
}

std::vector<RankStatus> Board::ranks() const {
  std::vector<RankStatus> all;
  for (const auto& [rank, status] : ranks_) all.push_back(status);
  return all;
}

}  // namespace frameshard
