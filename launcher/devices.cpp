#include "launcher/devices.h"

#include <algorithm>
#include <set>

#include <fmt/ranges.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"
#include "core/host.h"
#include "core/pci.h"
#include "core/text.h"
#include "parallel/comm/text.h"

namespace frameshard {
namespace {

bool is_cuda(const std::string& word) {
  return word.starts_with("cuda");
}

// The entry of a rank, or what all have.
const std::string& word_of(const RunConfig& config, size_t rank) {
  const bool listed = rank < config.devices.size() && config.devices[rank].device != "auto";
  return listed ? config.devices[rank].device : config.infer.device;
}

// "cpu" or "cuda".
std::string type_of(const std::string& word) {
  if (is_cuda(word)) return "cuda";
  return word == "cpu" || !cuda() ? "cpu" : "cuda";
}

std::set<std::string> types_of(const RunConfig& config) {
  std::set<std::string> types;
  const size_t entries = std::max<size_t>(1, config.devices.size());
  for (size_t rank = 0; rank < entries; ++rank) types.insert(device_type_of(config, rank));
  return types;
}

}  // namespace

bool DevicesHere::has(const std::string& word) const {
  if (!is_cuda(word)) return true;
  return word == "cuda" ? gpus > 0 : std::stoi(word.substr(5)) < gpus;
}

DevicesHere devices_here() {
  if (!cuda()) return {.gpus = 0, .text = why_no_cuda()};
  std::vector<std::string> names;
  for (const DeviceInfo& each : list_devices()) {
    if (each.device.is_cuda()) names.push_back(fmt::format("{} ({})", each.device.str(), each.name));
  }
  return {.gpus = int(names.size()), .text = fmt::format("here are {}", fmt::join(names, ", "))};
}

void expand_devices(RunConfig& config) {
  for (const std::string& word : std::exchange(config.place.denoiser, {})) {
    config.devices.push_back({.device = word == "default" ? "auto" : word, .weight = {1.0}});
  }
}

std::vector<std::string> limit_devices(RunConfig& config) {
  const bool off = config.infer.parallel == "off";
  const auto most = size_t(off ? 1 : config.infer.max_devices.value_or(int64_t(config.devices.size())));
  if (config.devices.size() <= most) return {};
  const size_t listed = config.devices.size();
  config.devices.resize(most);
  return {fmt::format("{}: of {} devices the first {} used",
                      off ? "infer.parallel is off" : fmt::format("infer.max_devices is {}", most), listed,
                      most == 1 ? "is" : fmt::format("{} are", most))};
}

std::vector<std::string> skip_missing_devices(RunConfig& config, const DevicesHere& here) {
  std::vector<std::string> warnings;
  std::vector<DeviceConfig> left;
  for (size_t i = 0; i < config.devices.size(); ++i) {
    const std::string& word = word_of(config, i);
    if (here.has(word)) {
      left.push_back(config.devices[i]);
    } else if (config.infer.missing_devices != "skip") {
      fail(ExitCode::config,
           "devices.{}.device is {}, but {}; correct it, or set infer.missing_devices=skip to go on without "
           "it",
           i, word, here.text);
    } else {
      warnings.push_back(fmt::format("devices.{} is left out: it is {}, but {}", i, word, here.text));
    }
  }
  if (left.empty() && !config.devices.empty()) {
    fail(ExitCode::config, "none of the {} of devices is here: {}; list one that is, or cpu",
         config.devices.size(), here.text);
  }
  config.devices = std::move(left);
  return warnings;
}

std::string contradiction(const RunConfig& config) {
  if (config.infer.device == "auto") return "";
  const auto others =
      std::count_if(config.devices.begin(), config.devices.end(), [&](const DeviceConfig& each) {
        return each.device != "auto" && is_cuda(each.device) != is_cuda(config.infer.device);
      });
  if (others == 0) return "";
  return fmt::format("infer.device is {}, but {} of {} devices {} not: devices counts", config.infer.device,
                     others, config.devices.size(), others == 1 ? "is" : "are");
}

IdleCards idle_cards() {
  if (cuda() || gpus_hidden()) return {};
  return {.count = int(nvidia_cards().size()), .why = why_no_cuda()};
}

std::string unused_gpu(const RunConfig& config, const IdleCards& cards) {
  bool automatic = false;
  for (size_t rank = 0; rank < std::max<size_t>(1, config.devices.size()); ++rank) {
    automatic |= word_of(config, rank) == "auto";
  }
  if (cards.count == 0 || !automatic) return "";
  return fmt::format("the CPU is used, although {} here: {}; infer.device=cpu where that is meant",
                     cards.count == 1 ? "1 NVIDIA card is" : fmt::format("{} NVIDIA cards are", cards.count),
                     cards.why);
}

std::string device_type_of(const RunConfig& config, size_t rank, const std::string& otherwise) {
  const std::string& word = word_of(config, rank);
  return word == "auto" && !otherwise.empty() ? otherwise : type_of(word);
}

bool mixes_devices(const RunConfig& config) {
  return types_of(config).size() > 1;
}

std::string device_type(const RunConfig& config, bool under_mpi) {
  const std::set<std::string> types = types_of(config);
  const std::string& backend = config.infer.backend;
  if (types.size() > 1 && (under_mpi || (backend != "auto" && backend != "threads"))) {
    fail(
        ExitCode::config,
        "devices lists GPUs and CPUs, which only threads of one process can share a job on; leave out one of "
        "the kinds, or start frameshard run alone, with infer.backend=threads");
  }
  if (!types.contains("cuda")) return "cpu";
  if (!cuda()) {
    if (!config.devices.empty()) fail(ExitCode::config, "a device is cuda, but {}; use cpu", why_no_cuda());
    fail(ExitCode::config, "infer.device is cuda, but {}; set infer.device=cpu or auto", why_no_cuda());
  }
  return "cuda";
}

int64_t memory_of(const DeviceKind& kind) {
  if (kind.memory_bytes > 0) return kind.memory_bytes;
  if (kind.type == "cpu") return total_memory(at::Device(at::kCPU));
  return cuda() ? total_memory(at::Device(at::kCUDA, 0)) : 0;
}

at::Device rank_device(const RunConfig& config, const RankPlace& place) {
  const std::string& word = word_of(config, size_t(place.rank));
  if (!word.starts_with("cuda:")) return device_for_rank(word, place.local_rank);
  const DevicesHere here = devices_here();
  if (!here.has(word)) {
    const bool skip = place.under_mpi && config.infer.missing_devices == "skip";
    fail(ExitCode::config, "devices.{}.device is {}, but {}{}", place.rank, word, here.text,
         skip
             ? "; a rank is there for it, which infer.missing_devices=skip cannot take away: leave the entry "
               "out and start one rank less"
             : "");
  }
  return at::Device(at::kCUDA, c10::DeviceIndex(std::stoi(word.substr(5))));
}

std::vector<double> rank_speeds(const RunConfig& config, int world) {
  if (config.devices.empty()) return {};
  if (int(config.devices.size()) != world) {
    fail(ExitCode::config, "devices lists {} for {} rank{}; give one entry a rank, or start {}",
         config.devices.size(), world, world == 1 ? "" : "s", config.devices.size());
  }
  std::vector<double> speeds;
  for (const DeviceConfig& each : config.devices) {
    if (each.weight.is_auto()) return {};
    speeds.push_back(*each.weight.value);
  }
  const bool alike =
      std::all_of(speeds.begin(), speeds.end(), [&](double speed) { return speed == speeds[0]; });
  if (alike && speeds[0] == 0) fail(ExitCode::config, "every weight of devices is 0; give one of them more");
  return alike ? std::vector<double>() : speeds;
}

std::vector<std::string> device_lines(const at::Device& device, Communicator& world) {
  // Ranks of a host that share a CPU see slightly different amounts of free memory: the first one's is shown.
  const auto devices = list_devices();
  const auto mine = std::find_if(devices.begin(), devices.end(),
                                 [&](const DeviceInfo& each) { return each.device == device; });
  require(mine != devices.end(), "{} is no device of this process", device.str());
  const auto which = gather_texts(world, fmt::format("{} {}", host_name(), device.str()));
  const auto texts = gather_texts(
      world, fmt::format("{} of {}: {}, {} of memory, {} free", device.str(), host_name(), mine->name,
                         format_bytes(double(mine->total_bytes)), format_bytes(double(free_memory(device)))));
  std::vector<std::string> lines;
  if (world.rank() != 0) return lines;
  std::set<std::string> seen;
  for (size_t rank = 0; rank < which.size(); ++rank) {
    if (!seen.insert(which[rank]).second) continue;
    std::vector<size_t> ranks;
    for (size_t other = rank; other < which.size(); ++other) {
      if (which[other] == which[rank]) ranks.push_back(other);
    }
    lines.push_back(
        fmt::format("rank{} {}: {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "), texts[rank]));
  }
  return lines;
}

}  // namespace frameshard
