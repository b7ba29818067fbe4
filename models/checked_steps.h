// Denoising steps handed on in order, each when it has ended and its latents are finite.
#pragma once

#include <deque>
#include <functional>

#include "models/pipeline.h"

namespace frameshard {

/// Starts to find out whether a tensor is finite; what it returns waits for the answer.
using FiniteLook = std::function<std::function<bool()>(const at::Tensor&)>;

/// On a CPU the answer is there at once. On a GPU it is copied to pinned memory behind the work that makes
/// the tensor, and an event tells when it is there, so that the host need not wait for later work.
FiniteLook finite_look(const at::Device& device);

class CheckedSteps {
 public:
  using OnStep = std::function<void(const DenoiseState&)>;

  /// `behind`: so many steps may be enqueued beyond the one that is looked at. With 1 a GPU has the next step
  /// before its host waits for this one; more would only make a NaN known later. `steps`: of the schedule,
  /// for the message.
  CheckedSteps(int64_t steps, size_t behind, FiniteLook look, OnStep on_step)
      : steps_(steps), behind_(behind), look_(std::move(look)), on_step_(std::move(on_step)) {}

  /// A step that was enqueued. Calls `on_step` for those that are no longer waited with; 80 names the first
  /// one that made a NaN or Inf, for which it is not called.
  void add(DenoiseState state);
  /// Likewise for all that are left.
  void finish();

 private:
  void hand_on();

  struct Step {
    DenoiseState state;
    std::function<bool()> finite;
  };
  int64_t steps_;
  size_t behind_;
  FiniteLook look_;
  OnStep on_step_;
  std::deque<Step> under_way_;
};

}  // namespace frameshard
