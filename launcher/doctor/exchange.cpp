#include "launcher/doctor/exchange.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "core/device.h"
#include "core/host.h"
#include "parallel/partition.h"

namespace frameshard {
namespace {

constexpr int64_t kib = 1024;
constexpr std::array<int64_t, 8> message_sizes{kib,       4 * kib,    16 * kib,       64 * kib,
                                               256 * kib, 1024 * kib, 4 * 1024 * kib, 16 * 1024 * kib};
constexpr double longest_run = 2000;  // repetitions

double largest(Communicator& world, double value) {
  at::Tensor tensor = at::full({1}, value, at::kDouble);
  world.all_reduce(tensor, ReduceOp::max);
  return tensor.item<double>();
}

// Seconds of `times` calls on the slowest rank; all start together.
double time_calls(Communicator& world, const at::Device& device, int times,
                  const std::function<void()>& call) {
  synchronize(device);
  largest(world, 0);  // a barrier would let some ranks start a millisecond later: they sleep in it
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) call();
  synchronize(device);
  return largest(world, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

// A first call warms up, a second one says how many fit into the time; every rank makes as many.
double seconds_a_call(Communicator& world, const at::Device& device, double budget,
                      const std::function<void()>& call) {
  time_calls(world, device, 1, call);
  const double once = std::max(time_calls(world, device, 1, call), 1e-7);
  const int times = int(std::clamp(budget / once, 1.0, longest_run));
  return time_calls(world, device, times, call) / times;
}

}  // namespace

std::vector<ExchangeRow> measure_exchange(Communicator& world, const ExchangeGroup& group,
                                          const at::Device& device, double seconds,
                                          const std::function<void(const std::string&)>& at) {
  Communicator& mine = *group.group;
  const double budget = seconds / double(2 * message_sizes.size());
  std::vector<ExchangeRow> rows;
  for (const int64_t bytes : message_sizes) {
    const Counts counts = Partition::even(bytes, mine.size()).sizes();
    const auto me = size_t(mine.rank());
    // What this rank gets from each other one: its own piece's size.
    const Counts received(counts.size(), counts[me]);
    const at::Tensor whole = at::zeros({bytes}, at::TensorOptions(at::kByte).device(device));
    const at::Tensor piece = whole.slice(0, 0, counts[me]);
    const std::string size = format_bytes(double(bytes)) + " " + group.name;
    at("all_to_all of " + size);
    ExchangeRow row{.bytes = bytes};
    row.all_to_all = seconds_a_call(world, device, budget, [&] { mine.all_to_all(whole, counts, received); });
    at("all_gather of " + size);
    row.all_gather = seconds_a_call(world, device, budget, [&] { mine.all_gather(piece, counts); });
    rows.push_back(row);
  }
  return rows;
}

double sent_a_second(int64_t bytes, int ranks, double seconds) {
  return seconds > 0 ? double(bytes) * (ranks - 1) / ranks / seconds : 0;
}

std::string exchange_table(const ExchangeGroup& group, const std::vector<ExchangeRow>& rows) {
  std::string text = fmt::format("  {}, {} ranks\n  {:>10}{:>26}{:>26}\n  {:>10}", group.name, group.size, "",
                                 "all_to_all", "all_gather", "buffer");
  for (int operation = 0; operation < 2; ++operation)
    text += fmt::format("{:>14}{:>12}", "GB/s a rank", "us");
  text += "\n";
  for (const ExchangeRow& row : rows) {
    text += fmt::format("  {:>10}{:>14.3g}{:>12.1f}{:>14.3g}{:>12.1f}\n", format_bytes(double(row.bytes)),
                        sent_a_second(row.bytes, group.size, row.all_to_all) / 1e9, row.all_to_all * 1e6,
                        sent_a_second(row.bytes, group.size, row.all_gather) / 1e9, row.all_gather * 1e6);
  }
  return text;
}

}  // namespace frameshard
