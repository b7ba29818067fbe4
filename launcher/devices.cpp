#include "launcher/devices.h"

#include <algorithm>
#include <set>

#include <fmt/ranges.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"

namespace frameshard {
namespace {

// The entry of a rank, or what all have.
const std::string& word_of(const RunConfig& config, size_t rank) {
  const bool listed = rank < config.devices.size() && config.devices[rank].device != "auto";
  return listed ? config.devices[rank].device : config.infer.device;
}

std::string type_of(const std::string& word) {
  if (word.starts_with("cuda")) return "cuda";
  return word == "cpu" || !cuda() ? "cpu" : "cuda";
}

std::string gpus_here() {
  if (!cuda()) return why_no_cuda();
  std::vector<std::string> names;
  for (const DeviceInfo& each : list_devices()) {
    if (each.device.is_cuda()) names.push_back(fmt::format("{} ({})", each.device.str(), each.name));
  }
  return fmt::format("here are {}", fmt::join(names, ", "));
}

}  // namespace

std::string device_type(const RunConfig& config) {
  std::set<std::string> types;
  const size_t entries = std::max<size_t>(1, config.devices.size());
  for (size_t rank = 0; rank < entries; ++rank) types.insert(type_of(word_of(config, rank)));
  if (types.size() > 1) {
    fail(ExitCode::config,
         "devices lists GPUs and CPUs; the ranks of a job compute on one kind: leave out one of them");
  }
  if (*types.begin() == "cuda" && !cuda()) {
    if (!config.devices.empty()) fail(ExitCode::config, "a device is cuda, but {}; use cpu", why_no_cuda());
    fail(ExitCode::config, "infer.device is cuda, but {}; set infer.device=cpu or auto", why_no_cuda());
  }
  return *types.begin();
}

at::Device rank_device(const RunConfig& config, const RankPlace& place) {
  const std::string& word = word_of(config, size_t(place.rank));
  if (!word.starts_with("cuda:")) return device_for_rank(word, place.local_rank);
  const int number = std::stoi(word.substr(5));
  if (!cuda() || number >= cuda()->device_count()) {
    fail(ExitCode::config, "devices.{}.device is {}, but {}", place.rank, word, gpus_here());
  }
  return at::Device(at::kCUDA, c10::DeviceIndex(number));
}

std::vector<double> rank_speeds(const RunConfig& config, int world) {
  if (config.devices.empty()) return {};
  if (int(config.devices.size()) != world) {
    fail(ExitCode::config, "devices lists {} for {} rank{}; give one entry a rank, or start {}",
         config.devices.size(), world, world == 1 ? "" : "s", config.devices.size());
  }
  std::vector<double> speeds;
  for (const DeviceConfig& each : config.devices) speeds.push_back(each.weight);
  const bool alike =
      std::all_of(speeds.begin(), speeds.end(), [&](double speed) { return speed == speeds[0]; });
  if (alike && speeds[0] == 0) fail(ExitCode::config, "every weight of devices is 0; give one of them more");
  return alike ? std::vector<double>() : speeds;
}

}  // namespace frameshard
