#include "models/checked_steps.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "core/error.h"

namespace frameshard {
namespace {

struct DeviceFlag {
  explicit DeviceFlag(const at::Tensor& value)
      : host(at::empty({}, at::TensorOptions().dtype(at::kBool).pinned_memory(true))),
        copied(value.device().type()) {
    host.copy_(value, /*non_blocking=*/true);
    copied.record(c10::impl::VirtualGuardImpl(value.device().type()).getStream(value.device()));
  }

  at::Tensor host;
  c10::Event copied;
};

}  // namespace

FiniteLook finite_look(const at::Device& device) {
  if (!device.is_cuda()) {
    return [](const at::Tensor& latents) {
      return [finite = at::isfinite(latents).all().item<bool>()] { return finite; };
    };
  }
  return [](const at::Tensor& latents) {
    const auto flag = std::make_shared<DeviceFlag>(at::isfinite(latents).all());
    return [flag] {
      flag->copied.synchronize();
      return flag->host.item<bool>();
    };
  };
}

void CheckedSteps::add(DenoiseState state) {
  auto finite = look_(state.latents);
  under_way_.push_back({std::move(state), std::move(finite)});
  while (under_way_.size() > behind_) hand_on();
}

void CheckedSteps::finish() {
  while (!under_way_.empty()) hand_on();
}

void CheckedSteps::hand_on() {
  const Step step = std::move(under_way_.front());
  under_way_.pop_front();
  if (!step.finite()) {
    fail(ExitCode::not_finite,
         "step {} of {} made a NaN or Inf in the latents; try float32: model.dtype, and dtype in devices",
         step.state.steps, steps_);
  }
  on_step_(step.state);
}

}  // namespace frameshard
