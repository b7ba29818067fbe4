#include "launcher/devices.h"

#include <algorithm>
#include <set>

#include <fmt/ranges.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"

namespace frameshard {
namespace {

std::string type_of(const std::string& device, const std::string& otherwise) {
  const std::string word = device == "auto" ? otherwise : device;
  if (word.starts_with("cuda")) return "cuda";
  return word == "cpu" || !cuda() ? "cpu" : "cuda";
}

// The entry of this rank, or what all have.
std::string word_of(const RunConfig& config, const RankPlace& place) {
  if (size_t(place.rank) >= config.devices.size()) return config.infer.device;
  const std::string& device = config.devices[size_t(place.rank)].device;
  return device == "auto" ? config.infer.device : device;
}

std::string gpus_here() {
  if (!cuda()) return why_no_cuda();
  std::vector<std::string> names;
  for (int i = 0; i < cuda()->device_count(); ++i) {
    names.push_back(fmt::format("cuda:{} ({})", i, cuda()->device_name(i)));
  }
  return fmt::format("here are {}", fmt::join(names, ", "));
}

}  // namespace

std::string device_type(const RunConfig& config) {
  std::set<std::string> types;
  for (const DeviceConfig& each : config.devices) types.insert(type_of(each.device, config.infer.device));
  if (types.empty()) types.insert(type_of("auto", config.infer.device));
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
  const std::string word = word_of(config, place);
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
