// Noise levels of flow matching, from a checkpoint's scheduler_config.json and the run's overrides.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/io/json_file.h"
#include "models/parts.h"

namespace frameshard {

/// What both solvers need of scheduler_config.json and of `scheduler:`.
struct FlowSettings {
  std::string solver;  ///< unipc or euler
  std::string sigmas;  ///< diffusers or wan
  double shift = 1;
  int64_t train_steps = 1000;
  bool final_zero = true;     ///< else the last level is repeated
  double shift_terminal = 0;  ///< 0: not stretched
  int64_t order = 2;
  bool bh2 = true, lower_order_final = true;
  std::vector<int64_t> no_corrector;

  /// 65 for settings that this version does not implement.
  static FlowSettings read(const std::filesystem::path& scheduler_config, const SchedulerConfig& overrides);
};

/// The noise levels of n steps, n + 1 of them, the last one the end's; float64 until here, rounded to
/// float32. `diffusers`: as diffusers 0.42.1's class of this solver gives them. `wan`: Wan's official grid.
std::vector<float> flow_sigmas(const FlowSettings& settings, int64_t steps);
/// What the denoiser is told at each step: UniPC truncates to integers, Euler keeps fractions.
std::vector<double> flow_timesteps(const FlowSettings& settings, int64_t steps);

std::unique_ptr<NoiseSchedule> make_schedule(const FlowSettings& settings, int64_t steps);
std::unique_ptr<NoiseSchedule> make_unipc(const FlowSettings& settings, int64_t steps);
std::unique_ptr<NoiseSchedule> make_flow_euler(const FlowSettings& settings, int64_t steps);

}  // namespace frameshard
