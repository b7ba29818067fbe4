// Steps that are handed on when they have ended and are finite, at once and one step behind.
#include "models/checked_steps.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;

namespace {

// What happens, in order: "look 1", "read 1", "step 1".
struct Events {
  std::vector<std::string> list;

  // The latents of step n are n; those of `bad` are a NaN, which is known when it is asked for.
  FiniteLook look(int bad = 0) {
    return [this, bad](const at::Tensor& latents) {
      const int step = int(latents.item<double>());
      list.push_back(fmt::format("look {}", step));
      return [this, bad, step] {
        list.push_back(fmt::format("read {}", step));
        return step != bad;
      };
    };
  }
  CheckedSteps::OnStep on_step() {
    return [this](const DenoiseState& state) { list.push_back(fmt::format("step {}", state.steps)); };
  }
};

void take_steps(CheckedSteps& checked, int steps) {
  for (int i = 1; i <= steps; ++i) checked.add({.latents = at::full({1}, double(i)), .steps = i});
  checked.finish();
}

using Expected = std::vector<std::string>;

}  // namespace

TEST_CASE("on a CPU each step is handed on before the next one") {
  Events events;
  CheckedSteps checked(2, 0, events.look(), events.on_step());
  take_steps(checked, 2);
  CHECK(events.list == Expected{"look 1", "read 1", "step 1", "look 2", "read 2", "step 2"});
}

TEST_CASE("one behind: a step is read when the next one is under way, the last at the end") {
  Events events;
  CheckedSteps checked(3, 1, events.look(), events.on_step());
  take_steps(checked, 3);
  CHECK(events.list ==
        Expected{"look 1", "look 2", "read 1", "step 1", "look 3", "read 2", "step 2", "read 3", "step 3"});
}

TEST_CASE("the step that made a NaN is named, and it is not handed on") {
  for (size_t behind : {0, 1}) {
    Events events;
    CheckedSteps checked(3, behind, events.look(2), events.on_step());
    const auto error = caught([&] { take_steps(checked, 3); });
    CHECK(error.code == ExitCode::not_finite);
    CHECK(error.message ==
          "step 2 of 3 made a NaN or Inf in the latents; try float32: model.dtype, and dtype in devices");
    CHECK(events.list.back() == "read 2");
    CHECK(std::count(events.list.begin(), events.list.end(), "step 1") == 1);
  }
}

TEST_CASE("the last step's NaN is found at the end") {
  Events events;
  CheckedSteps checked(3, 1, events.look(3), events.on_step());
  const auto error = caught([&] { take_steps(checked, 3); });
  CHECK(error.has("step 3 of 3"));
  CHECK(events.list.back() == "read 3");
}

TEST_CASE("what was handed on is the step's own state") {
  std::vector<DenoiseState> states;
  CheckedSteps checked(2, 1, finite_look(at::Device(at::kCPU)),
                       [&](const DenoiseState& state) { states.push_back(state); });
  for (int i = 1; i <= 2; ++i) {
    checked.add(
        {.latents = at::full({2}, i), .steps = i, .reused = i - 1, .history = {at::full({1}, 10 * i)}});
  }
  checked.finish();
  REQUIRE(states.size() == 2);
  for (int i = 1; i <= 2; ++i) {
    const DenoiseState& state = states[size_t(i - 1)];
    CHECK(state.latents[0].item<int>() == i);
    CHECK(state.steps == i);
    CHECK(state.reused == i - 1);
    CHECK(state.history.at(0).item<int>() == 10 * i);
  }
}

TEST_CASE("what is finite on a CPU") {
  const FiniteLook look = finite_look(at::Device(at::kCPU));
  CHECK(look(at::ones({3}))());
  for (double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    at::Tensor latents = at::ones({3});
    latents[1] = bad;
    CHECK_FALSE(look(latents)());
  }
}
