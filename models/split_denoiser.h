// A denoiser whose predictions are divided over devices of this process (parallel_devices.h makes it).
#pragma once

#include <mutex>
#include <unordered_map>

#include "models/checkpoint.h"
#include "parallel/comm/rank_team.h"

namespace frameshard {

struct DeviceShare {
  at::Device device = at::kCPU;
  double weight = 1;  ///< its speed beside the others', in any unit; with 0 it takes no part
};

/// The devices that models follow. For any thread.
class DeviceList {
 public:
  struct State {
    uint64_t version = 0;
    std::vector<DeviceShare> shares;  ///< those with work, at least one
  };
  explicit DeviceList(DeviceShare first) { state_.shares = {first}; }
  State state() const;
  void set(std::vector<DeviceShare> shares);

 private:
  mutable std::mutex mutex_;
  State state_;
};

/// One rank a share, one copy of the weights a device. Calls from several threads take turns.
class SplitDenoiser final : public Denoiser {
 public:
  using Load = std::function<std::shared_ptr<Denoiser>(const at::Device& device)>;

  /// Loads a copy for each device with `load`, and whatever devices come later. What `load` throws goes to
  /// the caller of this, or of the method that first meets the new list; copies that are there stay.
  SplitDenoiser(std::shared_ptr<const DeviceList> devices, Load load);
  SplitDenoiser(const SplitDenoiser&) = delete;
  SplitDenoiser& operator=(const SplitDenoiser&) = delete;

  /// "cpu, cuda:0", a word a rank.
  std::string device_names() const;

  at::ScalarType dtype() const override { return dtype_; }
  /// On the first device; predict() copies it to the others.
  TextContext prepare(const at::Tensor& text) const override;
  using Denoiser::predict;
  /// `sequence` must be of one rank (78): this divides the tokens itself. Inputs may lie anywhere; the result
  /// lies where the latents do. `cache` holds all tokens' residual, so that it outlives a change of devices.
  /// Not differentiable; not for a recorded graph (DenoiseOptions::cuda_graph off on a GPU).
  at::Tensor predict(const at::Tensor& latents, const at::Tensor& timestep, const TextContext& text,
                     const ParallelSequence& sequence, StepCache* cache) const override;
  std::vector<double> modulation_changes(const at::Tensor& timesteps) const override;
  /// Of all copies, also those that are loaded later.
  void quantize_linear() override;
  /// Refused (78): the list says where weights are.
  void move_to(const at::Device& device) override;
  int64_t token_count(at::IntArrayRef latent_shape) const override;
  std::vector<int64_t> latent_shape(int64_t frames, int64_t height, int64_t width) const override;

 private:
  struct Call;
  using Copies = std::unordered_map<at::Device, std::shared_ptr<Denoiser>>;

  void follow() const;
  void make_team() const;
  Copies copies_for(const std::vector<DeviceShare>& shares) const;
  const at::Device& first_device() const { return now_.shares.front().device; }
  const Denoiser& first_copy() const { return *copies_.at(first_device()); }
  at::Tensor predict_alone(const Call& call) const;
  at::Tensor predict_together(const Call& call) const;
  at::Tensor predict_on_rank(const Call& call, Communicator& comm, StepCache& mine) const;

  std::shared_ptr<const DeviceList> devices_;
  Load load_;
  at::ScalarType dtype_;
  bool quantized_ = false;

  // What follows the list of devices; predict() is const, and must.
  mutable std::mutex mutex_;
  mutable DeviceList::State now_;
  mutable Copies copies_;
  mutable std::unique_ptr<RankTeam> team_;  // null for one share
};

}  // namespace frameshard
