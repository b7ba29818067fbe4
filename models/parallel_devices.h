// Several devices of this process for one model: the C++ API for a program that has its own main(). (The
// program `frameshard` has ranks instead: threads or processes, from the plan.)
//
//   ParallelDevices devices;
//   devices.enable({{at::Device("cuda:0"), 2}, {at::Device("cuda:1"), 1}});
//   std::shared_ptr<Denoiser> model = devices.parallelise(open_checkpoint(folder), at::kBFloat16);
//   model->predict(...)   // two thirds of the tokens on cuda:0, one third on cuda:1
#pragma once

#include "models/split_denoiser.h"

namespace frameshard {

/// The devices in use, and models divided over them, which follow it at their next use and may outlive it.
/// For any thread.
class ParallelDevices {
 public:
  /// Nothing is enabled: models compute on the first GPU, or on the CPU where there is none.
  ParallelDevices();
  ParallelDevices(const ParallelDevices&) = delete;
  ParallelDevices& operator=(const ParallelDevices&) = delete;

  /// These devices from here on, in place of those before. The first one with a weight above 0 prepares
  /// texts. A device may be named several times and then holds one copy of the weights. 78, and all as it
  /// was: no device, a device that is not here, weights that are negative, not finite or all 0.
  void enable(std::vector<DeviceShare> shares);
  /// Models compute on the first of the enabled devices alone from here on.
  void disable();
  bool enabled() const;
  /// "cuda:0", "cpu", in the order of enable(), also those with weight 0; empty when nothing is enabled.
  std::vector<std::string> ids() const;

  /// A model whose predictions are divided over the devices, by the weights, and the same as on one of them
  /// within 1e-5 in float32. Its weights are read now, and again for each device that is enabled later.
  std::shared_ptr<Denoiser> parallelise(std::shared_ptr<const DenoiserSource> source, at::ScalarType dtype);
  /// The same for a model that is loaded, on `device`, and can be divided over this device alone: 78 when
  /// others are enabled. It is used, not copied. 78 too where it is parallel already.
  std::shared_ptr<Denoiser> parallelise(std::shared_ptr<Denoiser> loaded, at::Device device = at::kCPU);

 private:
  void use(std::vector<DeviceShare> working);

  struct Loaded {
    std::weak_ptr<Denoiser> original;
    std::weak_ptr<SplitDenoiser> parallel;
  };

  mutable std::mutex mutex_;
  std::vector<DeviceShare> enabled_;  // as given
  std::shared_ptr<DeviceList> list_;  // what models follow
  std::vector<Loaded> loaded_;
};

}  // namespace frameshard
