#include "launcher/calibration.h"

#include <algorithm>
#include <cmath>

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include "core/device.h"
#include "core/error.h"
#include "core/host.h"
#include "core/log.h"
#include "core/phase.h"
#include "launcher/devices.h"
#include "launcher/placement.h"
#include "launcher/speed_cache.h"
#include "parallel/comm/text.h"
#include "parallel/comm/thread.h"
#include "parallel/plan_costs.h"
#include "parallel/speed_watch.h"

namespace frameshard {
namespace {

std::string device_words(const at::Device& device, int threads) {
  if (device.is_cpu()) return fmt::format("{}, {} threads", cpu_name(), threads);
  for (const DeviceInfo& each : list_devices()) {
    if (each.device == device) return each.name;
  }
  return device.str();
}

struct Sequence {
  int64_t tokens = 0, text_tokens = 0;
};

// The longest that the denoiser sees at once.
Sequence longest_sequence(const RunConfig& config, const ModelFacts& model) {
  Sequence longest;
  for (const RequestConfig& request : all_requests(config)) {
    const int64_t tokens = video_class(request, model).tokens();
    if (tokens > longest.tokens) longest = {tokens, request.max_sequence_length};
  }
  return longest;
}

// Ranks that share a sequence; the plan decides it only when the speeds are known.
int sharing_ranks(const DiffusionConfig& sizes, int world) {
  if (!sizes.cp_size.is_auto()) return int(*sizes.cp_size.value);
  const int64_t apart = sizes.dp_size.value.value_or(1) * sizes.cfg_size.value.value_or(1);
  return int(std::max<int64_t>(1, world / apart));
}

// One rank's part in finding out the speeds.
class Calibration {
 public:
  Calibration(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine,
              const RankPlace& place, Communicator& world)
      : machine_(machine),
        place_(place),
        world_(world),
        block_(rank_block(config, model, machine, place)),
        file_(speeds_file()) {}

  std::vector<double> run() {
    std::vector<double> rates = gather(look_up());
    const bool known = all_there(rates);
    if (!known) rates = measure();
    if (!all_there(rates)) return {};
    const std::string where = known ? fmt::format("from {}", file_.string()) : keep(rates);
    if (world_.rank() == 0) tell(rates, where);
    return relative_speeds(rates);
  }

 private:
  static bool all_there(const std::vector<double>& rates) {
    return std::all_of(rates.begin(), rates.end(), [](double rate) { return rate > 0; });
  }

  std::vector<double> gather(double mine) {
    std::vector<double> all;
    for (const auto& rank : gather_numbers(world_, {mine})) all.push_back(rank[0]);
    return all;
  }

  // 0: not known.
  double look_up() {
    std::string complaint;
    const KnownSpeeds known = read_speeds(file_, complaint);
    if (!complaint.empty() && place_.local_rank == 0) {
      log::warning("{}; the speeds are measured anew, and the file is replaced", complaint);
    }
    const auto found = known.find(block_.key);
    return found == known.end() ? 0 : found->second;
  }

  std::vector<double> measure() {
    stay_on_own_cpus(place_, machine_.threads_per_rank);
    at::set_num_threads(machine_.threads_per_rank);
    world_.barrier();
    double rate = 0;
    std::string why;
    try {
      use_device(block_.device);
      rate = block_.shape.operations() / block_seconds(block_.shape, block_.device, block_.dtype);
      release_cached_memory(block_.device);
    } catch (const std::exception& error) {
      why = error.what();
    }
    const auto reasons = gather_texts(world_, why);
    for (size_t rank = 0; world_.rank() == 0 && rank < reasons.size(); ++rank) {
      if (reasons[rank].empty()) continue;
      log::warning("the speed of rank {} cannot be measured, so that all count as equally fast: {}", rank,
                   reasons[rank]);
    }
    return gather(rate);
  }

  // Each host has all ranks, whether or not hosts share a disk.
  std::string keep(const std::vector<double>& rates) {
    const auto keys = gather_texts(world_, block_.key);
    std::string complaint;
    if (place_.local_rank == 0) {
      KnownSpeeds speeds;
      for (size_t rank = 0; rank < keys.size(); ++rank) speeds[keys[rank]] = rates[rank];
      complaint = add_speeds(file_, speeds);
      if (!complaint.empty()) log::warning("the measured speeds are not kept: {}", complaint);
    }
    return complaint.empty() ? fmt::format("kept in {}", file_.string()) : "not kept";
  }

  static void tell(const std::vector<double>& rates, const std::string& where) {
    const double fastest = *std::max_element(rates.begin(), rates.end());
    std::vector<std::string> words;
    for (size_t rank = 0; rank < rates.size(); ++rank) {
      words.push_back(fmt::format("rank {} {:.2f}", rank, rates[rank] / fastest));
    }
    log::info("measured speeds: {} ({}){}", fmt::join(words, ", "), where,
              relative_speeds(rates).empty() ? ": even shares" : "");
  }

  const PlanMachine& machine_;
  const RankPlace& place_;
  Communicator& world_;
  RankBlock block_;
  std::filesystem::path file_;
};

}  // namespace

bool measures_speeds(const RunConfig& config) {
  return !config.devices.empty() && config.devices[0].weight.is_auto();
}

bool rebalances(const RunConfig& config) {
  // A step cache holds residuals by the tokens' division.
  return config.infer.rebalance && measures_speeds(config) && config.lossy.step_cache == 0;
}

RankBlock rank_block(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine,
                     const RankPlace& place) {
  const at::Device device = rank_device(config, place);
  const at::ScalarType dtype = denoiser_dtype(config, device, place.rank);
  const Sequence longest = longest_sequence(config, model);
  const int ranks = sharing_ranks(config.infer.diffusion, machine.world);
  const BlockShape shape =
      block_shape(model, longest.tokens, longest.text_tokens, ranks, most_block_operations(device));
  std::string key = fmt::format(
      "{}; {}, rank {} of {}; {}; {} heads of {}, feed-forward {}; {} of {} tokens, {} heads, text {}",
      device_words(device, machine.threads_per_rank), host_name(), place.local_rank, machine.node_ranks(),
      c10::toString(dtype), shape.heads, shape.head_dim, shape.ffn_dim, shape.rank_tokens, shape.tokens,
      shape.rank_heads, shape.text_tokens);
  return {device, dtype, shape, std::move(key)};
}

std::vector<double> relative_speeds(const std::vector<double>& rates) {
  const double fastest = *std::max_element(rates.begin(), rates.end());
  const double slowest = *std::min_element(rates.begin(), rates.end());
  if (fastest - slowest < SpeedWatch::drift * fastest) return {};
  std::vector<double> speeds;
  for (double rate : rates) {
    const double part = rate / fastest;
    const double scale = std::pow(10.0, 2 - std::floor(std::log10(part)));
    speeds.push_back(std::round(part * scale) / scale);
  }
  return speeds;
}

std::vector<double> measured_speeds(const RunConfig& config, const ModelFacts& model,
                                    const PlanMachine& machine, const RankPlace& place, Communicator& world) {
  if (world.size() == 1) return {};
  set_phase("calibration");
  auto speeds = Calibration(config, model, machine, place, world).run();
  set_phase("validation");
  return speeds;
}

std::vector<double> speeds_of_threads(const RunConfig& config, const ModelFacts& model,
                                      const PlanMachine& machine, const RankPlace& place) {
  std::vector<double> speeds;
  if (machine.world == 1) return speeds;
  run_ranks(machine.world, [&](Communicator& world) {
    RankPlace mine = place;
    mine.rank = mine.local_rank = world.rank();
    auto found = measured_speeds(config, model, machine, mine, world);
    if (world.rank() == 0) speeds = std::move(found);
  });
  return speeds;
}

std::vector<double> known_speeds(const RunConfig& config, const ModelFacts& model,
                                 const PlanMachine& machine) {
  const auto file = speeds_file();
  std::string complaint = "it has none for ranks of this host and this size";
  const KnownSpeeds known = read_speeds(file, complaint);
  std::vector<double> rates;
  try {
    for (int rank = 0; rank < machine.world && machine.nodes() == 1; ++rank) {
      const RankPlace place{.rank = rank, .local_rank = rank, .local_size = machine.world};
      const auto found = known.find(rank_block(config, model, machine, place).key);
      if (found != known.end()) rates.push_back(found->second);
    }
  } catch (const Error& error) {  // a GPU that is not here need not be, for a plan
    complaint = error.what();
  }
  if (!rates.empty() && int(rates.size()) == machine.world) return relative_speeds(rates);
  log::warning("weight: auto is measured by run, and {}; this plan takes all ranks as equally fast",
               file.empty() ? "there is no file of speeds" : fmt::format("{}: {}", file.string(), complaint));
  return {};
}

}  // namespace frameshard
