#include "parallel/work_queue.h"

#include <algorithm>
#include <numeric>

namespace frameshard {
namespace {

double seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

std::vector<int64_t> longest_first(std::span<const double> costs) {
  std::vector<int64_t> order(costs.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return costs[size_t(a)] > costs[size_t(b)]; });
  return order;
}

double QueueUse::idle_share(int askers) const {
  if (total_seconds <= 0 || askers <= 0) return 0;
  return std::clamp(1 - busy_seconds / (askers * total_seconds), 0.0, 1.0);
}

WorkQueue::WorkQueue(Communicator& world, std::vector<int64_t> order, OnReport on_report)
    : order_(std::move(order)),
      on_report_(std::move(on_report)),
      mailbox_(world.open_mailbox([this](int rank, const std::string& text) { return answer(rank, text); })) {
}

std::optional<int64_t> WorkQueue::next(const std::string& report) {
  const std::string item = mailbox_->ask(report);
  if (item.empty()) return std::nullopt;
  return std::stoll(item);
}

std::string WorkQueue::answer(int rank, const std::string& report) {
  const auto now = Clock::now();
  if (const auto held = held_.find(rank); held != held_.end()) {
    take_back(held->second, report, now);
    held_.erase(held);
  }
  if (given_ == order_.size()) return "";
  if (given_ == 0) start_ = now;
  const int64_t item = order_[given_++];
  held_[rank] = {item, now};
  return std::to_string(item);
}

void WorkQueue::take_back(const Held& held, const std::string& report, Clock::time_point now) {
  ++use_.items;
  use_.busy_seconds += seconds(now - held.since);
  use_.total_seconds = seconds(now - start_);
  on_report_(held.item, report);
}

}  // namespace frameshard
