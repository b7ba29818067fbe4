// Noise levels and trajectories against literal values of diffusers 0.42.1 and of Wan's official grid.
#include <cmath>

#include <ATen/ATen.h>

#include "core/error.h"
#include "models/schedules/flow_grid.h"
#include "tests/support/catch.h"
#include "tests/support/config_files.h"

using namespace frameshard;
using frameshard::test::caught;
using Values = std::vector<double>;

namespace {

FlowSettings settings(const std::string& solver, double shift = 3, const std::string& sigmas = "diffusers") {
  FlowSettings made;
  made.solver = solver, made.sigmas = sigmas, made.shift = shift;
  return made;
}

void check_grid(const FlowSettings& made, const Values& levels, const Values& timesteps) {
  const auto got = flow_sigmas(made, int64_t(timesteps.size()));
  REQUIRE(got.size() == levels.size());
  for (size_t i = 0; i < levels.size(); ++i) {
    INFO("level " << i << ": " << got[i] << ", not " << levels[i]);
    CHECK(std::abs(double(got[i]) - levels[i]) < 1.2e-7);
  }
  const auto told = flow_timesteps(made, int64_t(timesteps.size()));
  REQUIRE(told.size() == timesteps.size());
  for (size_t i = 0; i < timesteps.size(); ++i) {
    INFO("timestep " << i << ": " << told[i] << ", not " << timesteps[i]);
    // UniPC's are whole numbers and must be the same; Euler's are float32.
    CHECK(std::abs(told[i] - timesteps[i]) <= (made.solver == "unipc" ? 0 : 7e-5));
  }
}

// x -> step(0.5 x - 0.1 (i + 1)) for 6 steps, from a fixed tensor: the latents after each step.
std::vector<at::Tensor> trajectory(const FlowSettings& made) {
  const auto schedule = make_schedule(made, 6);
  at::Tensor x = at::tensor({1.0f, -0.5f, 0.25f, 2.0f}).view({1, 1, 1, 2, 2});
  std::vector<at::Tensor> after;
  for (int64_t i = 0; i < schedule->steps(); ++i) {
    x = schedule->step(0.5 * x - 0.1 * double(i + 1), i, x);
    after.push_back(x);
  }
  return after;
}

void check_values(const at::Tensor& got, const Values& wanted, double tolerance = 2e-6) {
  CHECK(got.scalar_type() == at::kFloat);
  for (size_t i = 0; i < wanted.size(); ++i) {
    INFO("element " << i << ": " << got.flatten()[int64_t(i)].item<double>() << ", not " << wanted[i]);
    CHECK(std::abs(got.flatten()[int64_t(i)].item<double>() - wanted[i]) < tolerance);
  }
}

}  // namespace

TEST_CASE("UniPC's levels: 20 steps, shift 3") {
  check_grid(
      settings("unipc"),
      {0.999998987, 0.982776463, 0.964323997, 0.944506168, 0.923165679, 0.90011996,  0.875156224,
       0.848024487, 0.818429649, 0.786020279, 0.750374794, 0.710983098, 0.667221844, 0.6183213,
       0.563319623, 0.500998974, 0.42979452,  0.34766075,  0.251872182, 0.138714954, 0.0},
      {999, 982, 964, 944, 923, 900, 875, 848, 818, 786, 750, 710, 667, 618, 563, 500, 429, 347, 251, 138});
}

TEST_CASE("UniPC's levels: 50 steps, shift 3") {
  check_grid(settings("unipc"),
             {0.999998987,  0.993250072, 0.986315429, 0.979188383, 0.971860766, 0.964323997, 0.956569016,
              0.948586166,  0.940365314, 0.931895673, 0.923165679, 0.914163172, 0.904875278, 0.89528811,
              0.885386944,  0.875156224, 0.864579082, 0.853637755, 0.842312932, 0.830584288, 0.818429649,
              0.805825531,  0.792746425, 0.77916497,  0.765051723, 0.750374794, 0.735099733, 0.719189227,
              0.702602684,  0.685296237, 0.667221844, 0.648327291, 0.628555477, 0.607843816, 0.586123705,
              0.563319623,  0.539348304, 0.514117837, 0.487526327, 0.459460586, 0.42979452,  0.398387253,
              0.365080804,  0.329697579, 0.2920371,   0.251872182, 0.20894444,  0.162958607, 0.113575868,
              0.0604053885, 0.0},
             {999, 993, 986, 979, 971, 964, 956, 948, 940, 931, 923, 914, 904, 895, 885, 875, 864,
              853, 842, 830, 818, 805, 792, 779, 765, 750, 735, 719, 702, 685, 667, 648, 628, 607,
              586, 563, 539, 514, 487, 459, 429, 398, 365, 329, 292, 251, 208, 162, 113, 60});
}

TEST_CASE("UniPC's last level may be the lowest instead of 0") {
  FlowSettings made = settings("unipc", 5);
  made.final_zero = false;
  check_grid(made, {0.999998987, 0.937578082, 0.833610952, 0.625936091, 0.625936091}, {999, 937, 833, 625});
}

TEST_CASE("Wan's official levels: 20 steps, shift 3") {
  check_grid(
      settings("unipc", 3, "wan"),
      {0.999666452, 0.982419491, 0.963941097, 0.944094419, 0.922721684, 0.899639785, 0.87463522,
       0.84745723,  0.817809701, 0.785339952, 0.749624789, 0.710152149, 0.666296124, 0.617283583,
       0.562148333, 0.499666542, 0.428265214, 0.345887512, 0.249791637, 0.136239663, 0.0},
      {999, 982, 963, 944, 922, 899, 874, 847, 817, 785, 749, 710, 666, 617, 562, 499, 428, 345, 249, 136});
}

TEST_CASE("Wan's official levels: 50 steps, shift 3") {
  const FlowSettings made = settings("unipc", 3, "wan");
  const auto levels = flow_sigmas(made, 50);
  const auto timesteps = flow_timesteps(made, 50);
  CHECK(std::abs(levels[0] - 0.999666452) < 1e-7);
  CHECK(std::abs(levels[25] - 0.749624789) < 1e-7);
  CHECK(std::abs(levels[49] - 0.057636831) < 1e-7);
  CHECK(levels[50] == 0);
  CHECK(timesteps[0] == 999);
  CHECK(timesteps[25] == 749);
  CHECK(timesteps[49] == 57);
}

TEST_CASE("Euler's levels: 20 steps, shift 3") {
  check_grid(settings("euler"),
             {1.0,         0.981874585, 0.962385654, 0.941373229, 0.918651521, 0.894003034,   0.867171943,
              0.837854743, 0.805689275, 0.770239174, 0.730974317, 0.687243879, 0.638240099,   0.582947969,
              0.520074129, 0.447944283, 0.364352196, 0.266329706, 0.149787232, 0.00892857183, 0.0},
             {1000.0,           981.874572753906, 962.385681152344, 941.373229980469, 918.651550292969,
              894.003051757813, 867.171936035156, 837.854736328125, 805.689270019531, 770.239196777344,
              730.974304199219, 687.243896484375, 638.240112304688, 582.947998046875, 520.074157714844,
              447.944274902344, 364.352203369141, 266.329711914063, 149.787231445313, 8.9285717010498});
}

TEST_CASE("Euler's levels stretched to a terminal") {
  FlowSettings made = settings("euler", 5);
  made.shift_terminal = 0.02;
  check_grid(made, {1.0, 0.909298599, 0.716038465, 0.0199999996, 0.0},
             {1000.0, 909.298583984375, 716.038452148438, 20.0});
}

TEST_CASE("levels fall from the first to the last, for any number of steps") {
  for (const std::string solver : {"unipc", "euler"}) {
    for (const std::string grid : {"diffusers", "wan"}) {
      for (int64_t steps : {1, 2, 3, 7, 50, 999, 1000}) {
        for (double shift : {1.0, 3.0, 8.0}) {
          INFO(solver << " " << grid << ", " << steps << " steps, shift " << shift);
          const auto levels = flow_sigmas(settings(solver, shift, grid), steps);
          REQUIRE(int64_t(levels.size()) == steps + 1);
          CHECK(levels.front() <= 1);
          CHECK((solver == "euler" || levels.front() < 1));  // UniPC takes log(1 - level)
          CHECK(levels.back() == 0);
          CHECK(std::is_sorted(levels.rbegin(), levels.rend()));
          for (double timestep : flow_timesteps(settings(solver, shift, grid), steps)) {
            CHECK((timestep >= 0 && timestep <= 1000));
            if (solver == "unipc") CHECK(timestep == std::trunc(timestep));
          }
        }
      }
    }
  }
}

TEST_CASE("UniPC takes diffusers' steps") {
  const auto after = trajectory(settings("unipc"));
  const std::vector<Values> wanted = {
      {0.97502851, -0.47814998, 0.24843928, 1.9438143}, {0.95534015, -0.44023812, 0.25755104, 1.8857259},
      {0.94473392, -0.37841684, 0.28315854, 1.8268344}, {0.94369859, -0.28397486, 0.32986185, 1.7621475},
      {0.96690845, -0.13138628, 0.41776109, 1.6991049}, {1.0107768, 0.11918363, 0.56498021, 1.6051723}};
  for (size_t i = 0; i < wanted.size(); ++i) {
    INFO("step " << i);
    check_values(after[i], wanted[i]);
  }
}

TEST_CASE("UniPC of other orders, and without some corrections") {
  FlowSettings made = settings("unipc");
  made.order = 1;
  check_values(trajectory(made).back(), {0.99299407, 0.1089928, 0.55099344, 1.5823284});
  made.order = 3;
  check_values(trajectory(made).back(), {1.0117369, 0.11966878, 0.56570286, 1.606449});
  made.order = 2, made.no_corrector = {0, 1};
  check_values(trajectory(made).back(), {1.006081, 0.11562152, 0.56085122, 1.5997206});
}

TEST_CASE("UniPC's other form, bh1") {
  FlowSettings made = settings("unipc");
  made.bh2 = false;
  const auto after = trajectory(made);  // diffusers' last step to level 0 is not a number in this form
  check_values(after[1], {0.98591936, -0.41602308, 0.28494817, 1.9205478});
  check_values(after[4], {1.0025765, -0.10565925, 0.44845867, 1.7414006});
}

TEST_CASE("Euler takes diffusers' steps") {
  check_values(trajectory(settings("euler")).back(), {0.92286277, 0.047773644, 0.48531827, 1.5062556});
}

TEST_CASE("a schedule tells its steps and timesteps, and takes predictions of any float type") {
  const auto schedule = make_schedule(settings("unipc"), 20);
  CHECK(schedule->steps() == 20);
  CHECK(schedule->timestep(0) == 999);
  CHECK(schedule->timestep(19) == 138);
  const at::Tensor x = at::ones({1, 1, 1, 2, 2});
  CHECK(schedule->step(x.to(at::kBFloat16), 0, x).scalar_type() == at::kFloat);
}

namespace {

FlowSettings read_settings(const std::string& json, const SchedulerConfig& overrides = {}) {
  const frameshard::test::ConfigFile file(json, "scheduler_config.json");
  return FlowSettings::read(file.path(), overrides);
}
const std::string unipc = R"("_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true)";

}  // namespace

TEST_CASE("settings come from scheduler_config.json") {
  const FlowSettings made =
      read_settings("{" + unipc + R"(, "flow_shift": 5.0, "solver_order": 3, "solver_type": "bh1",
      "lower_order_final": false, "disable_corrector": [0], "final_sigmas_type": "sigma_min"})");
  CHECK(made.solver == "unipc");
  CHECK(made.sigmas == "diffusers");
  CHECK(made.shift == 5);
  CHECK(made.order == 3);
  CHECK_FALSE(made.bh2);
  CHECK_FALSE(made.lower_order_final);
  CHECK_FALSE(made.final_zero);
  CHECK(made.no_corrector == std::vector<int64_t>{0});
  const FlowSettings euler =
      read_settings(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 8.0})");
  CHECK(euler.solver == "euler");
  CHECK(euler.shift == 8);
}

TEST_CASE("a run overrides shift, solver and levels") {
  SchedulerConfig overrides;
  overrides.flow_shift = 2.5, overrides.solver = "euler", overrides.sigmas = "wan";
  const FlowSettings made = read_settings("{" + unipc + R"(, "flow_shift": 5.0})", overrides);
  CHECK(made.shift == 2.5);
  CHECK(made.solver == "euler");
  CHECK(made.sigmas == "wan");
}

TEST_CASE("settings that are not implemented are refused, not ignored") {
  const auto refused = [](const std::string& keys, const std::string& words) {
    const auto error = caught([&] { read_settings("{" + keys + "}"); });
    INFO("message: " << error.message);
    CHECK(error.code == ExitCode::bad_data);
    CHECK(error.has("scheduler_config.json"));
    CHECK(error.has(words));
  };
  refused(R"("_class_name": "DDIMScheduler")", "DDIMScheduler is not supported; known: UniPC");
  refused(R"("flow_shift": 3)", "\"_class_name\" is missing");
  refused(unipc + R"(, "prediction_type": "epsilon")", "prediction_type");
  refused(unipc + R"(, "predict_x0": false)", "predict_x0");
  refused(unipc + R"(, "thresholding": true)", "thresholding");
  refused(unipc + R"(, "use_karras_sigmas": true)", "use_karras_sigmas");
  refused(unipc + R"(, "use_dynamic_shifting": true)", "use_dynamic_shifting");
  refused(unipc + R"(, "solver_type": "bh3")", "bh3");
  refused(unipc + R"(, "solver_order": 4)", "solver_order");
  refused(unipc + R"(, "flow_shift": "high")", "flow_shift");
  refused(unipc + R"(, "flow_shift": 0)", "flow_shift) is 0; it must be above 0");
  refused(unipc + R"(, "final_sigmas_type": "none")", "final_sigmas_type");
  refused(unipc + R"(, "solver_p": {})", "solver_p");
  refused(R"("_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": false)", "use_flow_sigmas");
  refused(R"("_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": true)", "invert_sigmas");
}

TEST_CASE("a solver that was stopped goes on as if it had not been") {
  for (const char* solver : {"unipc", "euler"}) {
    for (const int64_t order : {1, 2, 3}) {
      FlowSettings made = settings(solver);
      made.order = order;
      const auto whole = trajectory(made);
      for (int64_t stop = 1; stop < 6; ++stop) {
        const auto first = make_schedule(made, 6), second = make_schedule(made, 6);
        at::Tensor x = at::tensor({1.0f, -0.5f, 0.25f, 2.0f}).view({1, 1, 1, 2, 2});
        for (int64_t i = 0; i < stop; ++i) x = first->step(0.5 * x - 0.1 * double(i + 1), i, x);
        if (!first->history().empty()) second->restore(first->history(), stop);
        for (int64_t i = stop; i < 6; ++i) x = second->step(0.5 * x - 0.1 * double(i + 1), i, x);
        INFO(solver << ", order " << order << ", stopped after " << stop);
        CHECK(at::equal(x, whole.back()));
      }
    }
  }
}
