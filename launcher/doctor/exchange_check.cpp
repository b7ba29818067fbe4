#include "launcher/doctor/exchange_check.h"

#include "core/cuda_module.h"
#include "core/device.h"
#include "launcher/doctor/exchange.h"
#include "parallel/comm/backends.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

// What is measured; the groups are destroyed in the same order on all ranks.
struct Setting {
  ExchangeGroup group;
  CommPtr owner;
};

std::vector<Setting> make_groups(Communicator& world, const Hosts& hosts, const GroupMaker& make) {
  struct Split {
    const char* name;
    int color;
  };
  const auto me = size_t(world.rank());
  std::vector<Split> splits{{"inside the host", 0}};
  if (hosts.names.size() > 1) {
    splits = {{"all ranks", 0}, {"inside each host", hosts.of_rank[me]}, {"between hosts", hosts.place[me]}};
  }
  std::vector<Setting> settings;
  for (const Split& split : splits) {
    CommPtr group = world.split(split.color, world.rank(), split.name);
    const auto size = int(reduce_number(world, group->size(), ReduceOp::max));
    if (size == 1) continue;
    if (group->size() > 1) group = make(std::move(group));
    settings.push_back({{.name = split.name, .group = group.get(), .size = size}, nullptr});
    settings.back().owner = std::move(group);
  }
  return settings;
}

Finding summary(const std::string& backend, const ExchangeGroup& group,
                const std::vector<ExchangeRow>& rows) {
  const ExchangeRow &small = rows.front(), &large = rows.back();
  const auto speed = [&](double seconds) { return sent_a_second(large.bytes, group.size, seconds) / 1e9; };
  return ok(
      "exchange",
      fmt::format("{} {}, {} ranks: all_to_all {:.3g} GB/s a rank and {:.0f} us, all_gather {:.3g} GB/s and "
                  "{:.0f} us (16 MiB, 1 KiB)",
                  backend, group.name, group.size, speed(large.all_to_all), small.all_to_all * 1e6,
                  speed(large.all_gather), small.all_gather * 1e6),
      Scope::job);
}

// A message of up to 64 KiB takes microseconds; milliseconds are turns that a scheduler gives.
Findings check_latency(const ExchangeGroup& group, const std::vector<ExchangeRow>& rows) {
  constexpr int64_t small = 64 << 10;
  constexpr double tolerated = 1e-3;
  double slowest = 0;
  for (const ExchangeRow& row : rows) {
    if (row.bytes <= small) slowest = std::max({slowest, row.all_to_all, row.all_gather});
  }
  if (slowest < tolerated) return {};
  return {
      note("exchange",
           fmt::format("{}, up to 64 KiB take up to {:.1f} ms: other work shares the ranks' cores, or the "
                       "network is slow; measure again when it is quiet",
                       group.name, slowest * 1e3),
           Scope::job)};
}

}  // namespace

ExchangeReport check_exchange(Communicator& world, const Hosts& hosts, const RankPlace& place,
                              const ExchangeOptions& options) {
  const bool mine = cuda() && place.local_size <= cuda()->device_count();
  const bool own_gpu = reduce_number(world, mine, ReduceOp::min) != 0;
  const at::Device device = device_for_rank(options.device, place.local_rank);
  const std::string backend = resolve_backend(options.backend, true, device, own_gpu);
  use_device(device);
  options.waits_for("the start of " + backend);
  const auto settings = make_groups(world, hosts, group_maker(backend, device));
  ExchangeReport report;
  for (const Setting& setting : settings) {
    const auto rows = measure_exchange(world, setting.group, device,
                                       options.seconds / double(settings.size()), options.waits_for);
    report.findings.push_back(summary(backend, setting.group, rows));
    for (const Finding& finding : check_latency(setting.group, rows)) report.findings.push_back(finding);
    report.tables += exchange_table(setting.group, rows);
  }
  return report;
}

}  // namespace frameshard
