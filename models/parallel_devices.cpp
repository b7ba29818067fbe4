#include "models/parallel_devices.h"

#include <cmath>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"

namespace frameshard {
namespace {

// As list_devices() has it: a CPU without a number, a GPU with one.
at::Device with_number(const at::Device& device) {
  if (device.is_cpu()) return at::Device(at::kCPU);
  return {device.type(), device.has_index() ? device.index() : c10::DeviceIndex(0)};
}

void check_here(const at::Device& device, const std::vector<DeviceInfo>& here) {
  std::vector<std::string> names;
  for (const DeviceInfo& info : here) {
    if (info.device == device) return;
    names.push_back(fmt::format("{} ({})", info.device.str(), info.name));
  }
  const std::string why = device.is_cuda() && !cuda() ? fmt::format(" ({})", why_no_cuda()) : "";
  fail(ExitCode::config, "enable: there is no device {} here{}; there are: {}", device.str(), why,
       fmt::join(names, ", "));
}

// The shares in the form of list_devices().
std::vector<DeviceShare> checked(std::vector<DeviceShare> shares) {
  if (shares.empty()) {
    fail(ExitCode::config, "enable: no device is given; name at least one, or call disable()");
  }
  const std::vector<DeviceInfo> here = list_devices();
  double sum = 0;
  for (DeviceShare& share : shares) {
    share.device = with_number(share.device);
    check_here(share.device, here);
    if (!std::isfinite(share.weight) || share.weight < 0) {
      fail(ExitCode::config, "enable: the weight of {} is {}; give 0 or more, in any unit",
           share.device.str(), share.weight);
    }
    sum += share.weight;
  }
  if (sum <= 0) {
    fail(ExitCode::config, "enable: the weights of all {} devices are 0; one at least must be above 0",
         shares.size());
  }
  return shares;
}

}  // namespace

ParallelDevices::ParallelDevices()
    : list_(std::make_shared<DeviceList>(DeviceShare{list_devices().front().device})) {}

// Under mutex_. What was cached for the former division is of no use to the next one.
void ParallelDevices::use(std::vector<DeviceShare> working) {
  std::vector<DeviceShare> touched = list_->state().shares;
  touched.insert(touched.end(), working.begin(), working.end());
  list_->set(std::move(working));
  std::unordered_map<at::Device, bool> released;
  for (const DeviceShare& share : touched) {
    if (!std::exchange(released[share.device], true)) release_cached_memory(share.device);
  }
}

void ParallelDevices::enable(std::vector<DeviceShare> shares) {
  shares = checked(std::move(shares));
  std::vector<DeviceShare> working;
  std::copy_if(shares.begin(), shares.end(), std::back_inserter(working),
               [](const DeviceShare& share) { return share.weight > 0; });
  const std::lock_guard lock(mutex_);
  enabled_ = std::move(shares);
  use(std::move(working));
}

void ParallelDevices::disable() {
  const std::lock_guard lock(mutex_);
  enabled_.clear();
  use({list_->state().shares.front()});
}

bool ParallelDevices::enabled() const {
  const std::lock_guard lock(mutex_);
  return !enabled_.empty();
}

std::vector<std::string> ParallelDevices::ids() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const DeviceShare& share : enabled_) names.push_back(share.device.str());
  return names;
}

std::shared_ptr<Denoiser> ParallelDevices::parallelise(std::shared_ptr<const DenoiserSource> source,
                                                       at::ScalarType dtype) {
  require(source != nullptr, "parallelise: no checkpoint");
  return std::make_shared<SplitDenoiser>(list_, [source, dtype](const at::Device& device) {
    return std::shared_ptr<Denoiser>(source->load_denoiser({.dtype = dtype, .device = device}));
  });
}

std::shared_ptr<Denoiser> ParallelDevices::parallelise(std::shared_ptr<Denoiser> loaded, at::Device device) {
  require(loaded != nullptr, "parallelise: no model");
  const std::lock_guard lock(mutex_);
  std::erase_if(loaded_, [](const Loaded& one) { return one.original.expired() || one.parallel.expired(); });
  auto already = std::dynamic_pointer_cast<SplitDenoiser>(loaded);
  for (const Loaded& one : loaded_) {
    if (one.original.lock() == loaded) already = one.parallel.lock();
  }
  if (already) {
    fail(ExitCode::config,
         "parallelise: this model is parallel already, over {}; a model is parallelised once, and enable() "
         "changes its devices",
         already->device_names());
  }
  device = with_number(device);
  const auto parallel = std::make_shared<SplitDenoiser>(list_, [loaded, device](const at::Device& wanted) {
    if (wanted == device) return loaded;
    fail(ExitCode::config,
         "parallelise: this model was handed in loaded, on {}, and {} is enabled; hand in its checkpoint, or "
         "enable {} alone",
         device.str(), wanted.str(), device.str());
  });
  loaded_.push_back({loaded, parallel});
  return parallel;
}

}  // namespace frameshard
