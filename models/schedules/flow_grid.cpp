#include "models/schedules/flow_grid.h"

#include <cmath>

namespace frameshard {
namespace {

std::vector<double> linspace(double first, double last, int64_t count) {
  std::vector<double> values;
  const double step = count > 1 ? (last - first) / double(count - 1) : 0;
  for (int64_t i = 0; i < count; ++i) values.push_back(first + double(i) * step);
  if (count > 1) values.back() = last;
  return values;
}

double shifted(double sigma, double shift) {
  return shift * sigma / (1 + (shift - 1) * sigma);
}

// Levels of n steps in float64, without the end's.
std::vector<double> grid(const FlowSettings& settings, int64_t steps) {
  const double lowest = 1.0 / double(settings.train_steps);
  std::vector<double> sigmas;
  if (settings.sigmas == "wan") {
    // 1 - linspace(1, 1/1000, n+1), reversed, without its last: from 0.999 down.
    sigmas = linspace(1, lowest, steps + 1);
    std::reverse(sigmas.begin(), sigmas.end());
    for (double& sigma : sigmas) sigma = 1 - sigma;
    sigmas.pop_back();
  } else if (settings.solver == "unipc") {
    sigmas = linspace(1, lowest, steps + 1);
    sigmas.pop_back();
  } else {
    // diffusers' Euler applies the shift in its constructor, in float32, and once more to what is spread
    // between.
    const auto low = float(lowest);
    const auto ends = float(settings.shift) * low / (1 + (float(settings.shift) - 1) * low);
    const auto n = double(settings.train_steps);
    for (double t : linspace(n, double(ends) * n, steps)) sigmas.push_back(t / n);
  }
  for (double& sigma : sigmas) sigma = shifted(sigma, settings.shift);
  if (settings.shift_terminal > 0) {
    const double stretch = (1 - sigmas.back()) / (1 - settings.shift_terminal);
    for (double& sigma : sigmas) sigma = 1 - (1 - sigma) / stretch;
  }
  // UniPC takes log(1 - sigma).
  if (settings.solver == "unipc" && std::abs(sigmas.front() - 1) < 1e-6) sigmas.front() -= 1e-6;
  return sigmas;
}

}  // namespace

FlowSettings FlowSettings::read(const std::filesystem::path& file, const SchedulerConfig& overrides) {
  const JsonReader json(file);
  const auto name = json.get<std::string>("_class_name");
  FlowSettings settings;
  if (name == "UniPCMultistepScheduler") {
    settings.solver = "unipc";
    settings.shift = json.get_or("flow_shift", 1.0);
    json.expect("use_flow_sigmas", true);
    json.expect<std::string>("prediction_type", "flow_prediction");
    json.expect("predict_x0", true);
    json.expect("thresholding", false);
    settings.order = json.get_or<int64_t>("solver_order", 2);
    const auto type = json.get_or<std::string>("solver_type", "bh2");
    if (type != "bh1" && type != "bh2")
      fail(ExitCode::bad_data, "{}: solver_type \"{}\" is unknown", file.string(), type);
    settings.bh2 = type == "bh2";
    settings.lower_order_final = json.get_or("lower_order_final", true);
    settings.no_corrector = json.get_or("disable_corrector", std::vector<int64_t>{});
    const auto last = json.get_or<std::string>("final_sigmas_type", "zero");
    if (last != "zero" && last != "sigma_min") {
      fail(ExitCode::bad_data, "{}: final_sigmas_type \"{}\" is unknown; known: zero, sigma_min",
           file.string(), last);
    }
    settings.final_zero = last == "zero";
    if (json.has("solver_p")) fail(ExitCode::bad_data, "{}: solver_p is not supported", file.string());
  } else if (name == "FlowMatchEulerDiscreteScheduler") {
    settings.solver = "euler";
    settings.shift = json.get_or("shift", 1.0);
    json.expect("invert_sigmas", false);
    json.expect("stochastic_sampling", false);
  } else {
    fail(ExitCode::bad_data,
         "{}: the scheduler {} is not supported; known: UniPCMultistepScheduler, "
         "FlowMatchEulerDiscreteScheduler",
         file.string(), name);
  }
  for (const char* key :
       {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting"}) {
    json.expect(key, false);
  }
  settings.train_steps = json.get_or<int64_t>("num_train_timesteps", 1000);
  settings.shift_terminal = json.get_or("shift_terminal", 0.0);
  if (overrides.flow_shift) settings.shift = *overrides.flow_shift;
  if (overrides.solver) settings.solver = *overrides.solver;
  settings.sigmas = overrides.sigmas;
  if (settings.shift <= 0) {
    fail(ExitCode::bad_data, "{}: the shift of the noise levels ({}) is {}; it must be above 0",
         file.string(), name == "UniPCMultistepScheduler" ? "flow_shift" : "shift", settings.shift);
  }
  if (settings.order < 1 || settings.order > 3 || settings.train_steps < 1) {
    fail(ExitCode::bad_data, "{}: solver_order must be 1 to 3 and num_train_timesteps positive",
         file.string());
  }
  return settings;
}

std::vector<float> flow_sigmas(const FlowSettings& settings, int64_t steps) {
  std::vector<float> sigmas;
  for (double sigma : grid(settings, steps)) sigmas.push_back(float(sigma));
  sigmas.push_back(settings.final_zero || settings.solver == "euler" ? 0.0f : sigmas.back());
  return sigmas;
}

std::vector<double> flow_timesteps(const FlowSettings& settings, int64_t steps) {
  std::vector<double> timesteps;
  for (double sigma : grid(settings, steps)) {
    if (settings.solver == "unipc") {
      timesteps.push_back(std::trunc(sigma * double(settings.train_steps)));
    } else {
      timesteps.push_back(double(float(sigma) * float(settings.train_steps)));
    }
  }
  return timesteps;
}

std::unique_ptr<NoiseSchedule> make_schedule(const FlowSettings& settings, int64_t steps) {
  if (settings.solver == "unipc") return make_unipc(settings, steps);
  return make_flow_euler(settings, steps);
}

}  // namespace frameshard
