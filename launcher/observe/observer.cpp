#include "launcher/observe/observer.h"

#include <algorithm>

#include "core/host.h"
#include "core/log.h"
#include "core/phase.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

constexpr auto post_every = std::chrono::milliseconds(500);

double median(std::vector<double> values) {
  const auto middle = values.begin() + int64_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

Observer::Observer(Communicator& world, const ObserveOptions& options, const ObservedRank& rank,
                   std::unique_ptr<Exporter> exporter)
    : watches_(options.watch), meter_(rank.device) {
  if (options.profile) profile_.emplace(world, rank.device.str());
  if (!options.posts()) return;
  status_.rank = world.rank(), status_.replica = rank.replica;
  status_.host = host_name(), status_.device = rank.device.str();
  if (world.rank() == 0) board_ = std::make_unique<Board>(options.watch, std::move(exporter));
  mailbox_ = world.open_mailbox([this](int, const std::string& text) {
    board_->note(status_from(text));
    return "";
  });
  set_phase_listener([this](const std::string& name, int64_t step, int64_t steps) {
    change([&] {
      status_.phase = name;
      if (steps > 0) status_.step = step - 1, status_.steps = steps;
    });
  });
  poster_ = std::thread([this, size = world.size()] { post_until_end(size); });
}

Observer::~Observer() {
  if (!mailbox_) return;
  set_phase_listener({});
  change([&] { ending_ = true; });
  ended_.notify_all();
  poster_.join();
  mailbox_.reset();  // the board hears of nobody after this
}

template <class Change>
void Observer::change(Change change) {
  if (!mailbox_) return;
  const std::lock_guard lock(mutex_);
  change();
}

void Observer::video_begun(int64_t steps) {
  steps_.clear();
  change([&] {
    status_.steps_planned += steps;
    status_.step_seconds = status_.step_median_seconds = 0;
  });
}

void Observer::step_done(double seconds, int64_t cp_bytes, int64_t cfg_bytes) {
  if (!mailbox_) return;
  steps_.push_back(seconds);
  const double middle = median(steps_);
  change([&] {
    ++status_.step, ++status_.steps_total;
    status_.step_seconds = seconds, status_.step_median_seconds = middle;
    status_.cp_bytes = cp_bytes, status_.cfg_bytes = cfg_bytes;
  });
}

void Observer::video_ended(bool failed) {
  change([&] { ++(failed ? status_.videos_failed : status_.videos_done); });
}

void Observer::phase_peak(int64_t bytes) {
  change([&] { status_.memory_peak_bytes = std::max(status_.memory_peak_bytes, bytes); });
}

void Observer::write_trace(Communicator& replica, const std::filesystem::path& directory) {
  if (profile_) profile_->write(replica, directory);
}

// The last post is made when the rank has ended.
void Observer::post_until_end(int world_size) {
  log::set_rank(status_.rank, world_size);
  try {
    for (bool last = false;;) {
      post();
      if (last) return;
      std::unique_lock lock(mutex_);
      last = ended_.wait_for(lock, post_every, [&] { return ending_; });
    }
  } catch (const std::exception& error) {  // rank 0 has left; the rank's own work will say why
    log::debug("no more is told to rank 0: {}", error.what());
  }
}

void Observer::post() {
  RankStatus now;
  {
    const std::lock_guard lock(mutex_);
    now = status_;
  }
  meter_.measure(now);
  mailbox_->ask(to_text(now));
}

void check_same_options(const ObserveOptions& options, Communicator& world) {
  std::vector<std::string> flags;
  if (options.watch) flags.emplace_back("--watch");
  if (options.profile) flags.emplace_back("--profile");
  if (!options.prometheus.empty()) flags.push_back("--prometheus " + options.prometheus);
  if (flags.empty()) flags.emplace_back("none");
  check_same_text(world, fmt::format("{}", fmt::join(flags, " ")), "the flags of run");
}

}  // namespace frameshard
