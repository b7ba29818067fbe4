#include "models/schedules/flow_grid.h"

namespace frameshard {
namespace {

class FlowEuler final : public NoiseSchedule {
 public:
  FlowEuler(const FlowSettings& settings, int64_t steps)
      : sigmas_(flow_sigmas(settings, steps)), timesteps_(flow_timesteps(settings, steps)) {}

  int64_t steps() const override { return int64_t(timesteps_.size()); }
  double timestep(int64_t i) const override { return timesteps_[size_t(i)]; }
  at::Tensor step(const at::Tensor& prediction, int64_t i, const at::Tensor& latents) override {
    const float change = sigmas_[size_t(i) + 1] - sigmas_[size_t(i)];
    return latents + double(change) * prediction.to(at::kFloat);
  }

 private:
  std::vector<float> sigmas_;
  std::vector<double> timesteps_;
};

}  // namespace

std::unique_ptr<NoiseSchedule> make_flow_euler(const FlowSettings& settings, int64_t steps) {
  return std::make_unique<FlowEuler>(settings, steps);
}

}  // namespace frameshard
