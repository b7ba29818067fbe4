// AdamW over shards against torch.optim.AdamW (torch 2.11, fused=False) and against its formulas in double.
#include <cmath>
#include <limits>

#include "models/training/optimizer.h"
#include "parallel/comm/self.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"

using namespace frameshard;

namespace {

constexpr int64_t elements = 10007;

OptimizerConfig settings(double clip_norm = 0) {
  OptimizerConfig config;
  config.beta2 = 0.99, config.weight_decay = 0.1, config.clip_norm = clip_norm;
  return config;
}

at::Tensor numbers(int64_t factor, int64_t more, int64_t modulus, double less) {
  const at::Tensor i = at::arange(elements, at::kDouble);
  return (((i * factor + more).remainder(modulus)) / double(modulus) - less).to(at::kFloat);
}
at::Tensor first_weights() {
  return numbers(37, 0, 101, 0.5);
}
at::Tensor gradient_of(int step) {
  return numbers(53, step * 29, 97, 0.4) * (step % 2 == 1 ? 1 : 3);
}

// Weights cut into uneven shards, one of them empty.
struct Shards {
  at::Tensor weights, gradients;
  std::vector<ParameterShard> list;

  explicit Shards(const at::Tensor& from) : weights(from.clone()), gradients(at::zeros_like(from)) {
    const std::vector<int64_t> ends{0, 4096, 4096, 5000, from.numel()};
    for (size_t i = 1; i < ends.size(); ++i) {
      list.push_back({.begin = ends[i - 1],
                      .end = ends[i],
                      .parameter = weights.narrow(0, ends[i - 1], ends[i] - ends[i - 1]),
                      .gradient = gradients.narrow(0, ends[i - 1], ends[i] - ends[i - 1])});
    }
  }
};

double norm_of(const Shards& shards) {
  return Optimizer::gradient_norm(shards.list, false, *make_self_communicator());
}

void take_steps(Optimizer& optimizer, Shards& shards, int first, int last, double rate = 1e-2) {
  for (int step = first; step < last; ++step) {
    shards.gradients.copy_(gradient_of(step));
    optimizer.step(shards.list, rate, norm_of(shards));
  }
}

// The paper's formulas; `norms` are those that clipping is to divide by, over its limit.
at::Tensor in_double(const OptimizerConfig& config, int steps, double rate) {
  at::Tensor weight = first_weights().to(at::kDouble);
  at::Tensor average = at::zeros_like(weight), square = at::zeros_like(weight);
  for (int step = 0; step < steps; ++step) {
    at::Tensor gradient = gradient_of(step).to(at::kDouble);
    const double norm = gradient.norm().item<double>();
    if (config.clip_norm > 0 && norm > config.clip_norm) gradient *= config.clip_norm / norm;
    weight *= 1 - rate * config.weight_decay;
    average = config.beta1 * average + (1 - config.beta1) * gradient;
    square = config.beta2 * square + (1 - config.beta2) * gradient.square();
    const at::Tensor right_average = average / (1 - std::pow(config.beta1, step + 1));
    const at::Tensor right_square = square / (1 - std::pow(config.beta2, step + 1));
    weight -= rate * right_average / (right_square.sqrt() + config.epsilon);
  }
  return weight;
}

double relative_error(const at::Tensor& got, const at::Tensor& wanted) {
  return ((got.to(at::kDouble) - wanted).norm() / wanted.norm()).item<double>();
}

void check_places(const at::Tensor& weights, const std::vector<double>& wanted, double tolerance) {
  const int64_t places[] = {0, 1, 2, 1000, 5003, 10006};
  for (size_t i = 0; i < wanted.size(); ++i) {
    INFO("element " << places[i]);
    CHECK(std::abs(weights[places[i]].item<double>() - wanted[i]) < tolerance);
  }
}

}  // namespace

TEST_CASE("steps are torch.optim.AdamW's") {
  Shards shards(first_weights());
  Optimizer optimizer(settings(), WeightPrecision::plain, 0, 0);
  take_steps(optimizer, shards, 0, 6);
  check_places(shards.weights,
               {-0.474587858, -0.15903765, 0.241757631, -0.184257343, 0.247507259, 0.0706158206}, 1.2e-7);
  CHECK(relative_error(shards.weights, in_double(settings(), 6, 1e-2)) <
        2e-7);  // float32's rounding, six times
  CHECK(optimizer.steps() == 6);
  CHECK(optimizer.state_bytes() == 2 * 4 * elements);
}

TEST_CASE("gradients longer than clip_norm are clipped as clip_grad_norm_ does") {
  const OptimizerConfig config = settings(40);
  Shards shards(first_weights());
  Optimizer optimizer(config, WeightPrecision::plain, 0, 0);
  take_steps(optimizer, shards, 0, 6);  // norms 91 and 30 in turn
  check_places(shards.weights,
               {-0.478560001, -0.163422719, 0.236692727, -0.186386213, 0.243517429, 0.0707923993}, 4e-7);
  CHECK(relative_error(shards.weights, in_double(config, 6, 1e-2)) < 2e-7);
}

TEST_CASE("gradients are changed by clipping alone") {
  const OptimizerConfig config = settings(40);
  Shards shards(first_weights());
  Optimizer optimizer(config, WeightPrecision::plain, 0, 0);
  take_steps(optimizer, shards, 1, 2);
  CHECK(at::equal(shards.gradients, gradient_of(1)));
  take_steps(optimizer, shards, 2, 3);
  CHECK(std::abs(norm_of(shards) - 40) < 1e-4);
}

TEST_CASE("the gradient's norm is that of all shards, whatever their sizes") {
  Shards shards(first_weights());
  shards.gradients.copy_(gradient_of(0));
  const double norm = gradient_of(0).to(at::kDouble).norm().item<double>();
  CHECK(std::abs(norm_of(shards) / norm - 1) < 1e-7);

  // Millions of squares that a float32 sum loses track of.
  Shards large(at::zeros({(int64_t(1) << 22) + 5}));
  large.gradients.fill_(0.1f);
  CHECK(std::abs(norm_of(large) / (double(0.1f) * std::sqrt(double(large.gradients.numel()))) - 1) < 1e-6);

  Shards narrow(first_weights().to(at::kBFloat16));
  narrow.gradients.copy_(gradient_of(0));
  const double rounded = narrow.gradients.to(at::kDouble).norm().item<double>();
  CHECK(std::abs(norm_of(narrow) / rounded - 1) < 1e-6);

  shards.gradients[5003] = std::numeric_limits<float>::infinity();
  CHECK(std::isinf(norm_of(shards)));
  shards.gradients[7] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(norm_of(shards)));
}

TEST_CASE("master weights are what float32 training gives, and the weights their rounding") {
  const OptimizerConfig config = settings(40);
  Shards narrow(first_weights().to(at::kBFloat16)), wide(narrow.weights.to(at::kFloat));
  Optimizer master(config, WeightPrecision::master, 0.9, 0), plain(config, WeightPrecision::plain, 0.9, 0);
  for (int step = 0; step < 5; ++step) {
    narrow.gradients.copy_(gradient_of(step));
    wide.gradients.copy_(narrow.gradients);
    const double norm = norm_of(wide);
    master.step(narrow.list, 1e-4, norm), plain.step(wide.list, 1e-4, norm);
    CHECK(at::equal(narrow.gradients, gradient_of(step).to(at::kBFloat16)));
  }
  for (const char* name : {"exp_avg", "exp_avg_sq", "ema"}) {
    INFO(name);
    CHECK(at::equal(at::cat(master.state(narrow.list)[name]), at::cat(plain.state(wide.list)[name])));
  }
  CHECK(at::equal(at::cat(master.state(narrow.list)["master"]), wide.weights));
  CHECK(at::equal(narrow.weights, wide.weights.to(at::kBFloat16)));
  CHECK(master.state_bytes() == 4 * 4 * elements);
}

TEST_CASE("rounding by chance is right on average") {
  OptimizerConfig config = settings();
  config.weight_decay = 0;
  Shards shards(at::ones({100'000}, at::kBFloat16));
  shards.gradients.fill_(1);
  Optimizer optimizer(config, WeightPrecision::stochastic, 0, 3);
  optimizer.step(shards.list, 1e-4, 1);  // 1 - 1e-4 lies between 1 and the next number below
  const at::Tensor got = shards.weights.to(at::kDouble);
  const double below = 1 - 1.0 / 256;
  CHECK(((got == 1) | (got == below)).all().item<bool>());
  // Five standard deviations: sqrt(p (1 - p) / 100000) / 256 with p = 0.0256.
  CHECK(std::abs(got.mean().item<double>() - (1 - 1e-4)) < 1e-5);
}

TEST_CASE("rounding by chance depends on the seed, the step and the place alone") {
  const auto weights_after = [](uint64_t seed, int steps, bool moved) {
    Shards shards(at::ones({elements}, at::kBFloat16));
    if (moved) {
      for (ParameterShard& shard : shards.list) shard.begin += 10, shard.end += 10;
    }
    Optimizer optimizer(settings(), WeightPrecision::stochastic, 0, seed);
    shards.gradients.fill_(1);
    for (int step = 0; step < steps; ++step) optimizer.step(shards.list, 1e-4, 1);
    return shards.weights.clone();
  };
  CHECK(at::equal(weights_after(1, 3, false), weights_after(1, 3, false)));
  CHECK_FALSE(at::equal(weights_after(1, 3, false), weights_after(2, 3, false)));
  CHECK_FALSE(at::equal(weights_after(1, 3, false), weights_after(1, 3, true)));
  // Not the same draw again: else the same few weights would move at every step.
  const at::Tensor once = weights_after(1, 1, false), twice = weights_after(1, 2, false);
  CHECK(((once < 1) & (twice < once)).sum().item<int64_t>() < (once < 1).sum().item<int64_t>() / 4);
}

TEST_CASE("the weights' average follows them") {
  Shards shards(first_weights());
  Optimizer optimizer(settings(), WeightPrecision::plain, 0.75, 0);
  CHECK(at::equal(at::cat(optimizer.state(shards.list)["ema"]), first_weights()));
  at::Tensor wanted = first_weights().to(at::kDouble);
  for (int step = 0; step < 4; ++step) {
    take_steps(optimizer, shards, step, step + 1);
    wanted = 0.75 * wanted + 0.25 * shards.weights;
  }
  CHECK(relative_error(at::cat(optimizer.state(shards.list)["ema"]), wanted) < 1e-7);
}

TEST_CASE("a restored state goes on with the same bits") {
  for (const auto precision :
       {WeightPrecision::plain, WeightPrecision::master, WeightPrecision::stochastic}) {
    const auto dtype = precision == WeightPrecision::plain ? at::kFloat : at::kBFloat16;
    INFO("precision " << int(precision));
    Shards unbroken(first_weights().to(dtype));
    Optimizer whole(settings(40), precision, 0.9, 5);
    take_steps(whole, unbroken, 0, 3);
    Shards resumed(unbroken.weights);
    Optimizer next(settings(40), precision, 0.9, 5);
    auto from = whole.state(unbroken.list);
    auto to = next.state(resumed.list);
    REQUIRE(to.size() == from.size());
    for (auto& [name, tensors] : to) {
      for (size_t i = 0; i < tensors.size(); ++i) tensors[i].copy_(from[name][i]);
    }
    next.restore_steps(whole.steps());
    take_steps(whole, unbroken, 3, 6), take_steps(next, resumed, 3, 6);
    CHECK(at::equal(unbroken.weights, resumed.weights));
  }
}

TEST_CASE("float32 weights among 16-bit ones are trained as they are") {
  Shards mixed(first_weights()), wide(first_weights());
  mixed.list[0].parameter = mixed.list[0].parameter.to(at::kBFloat16);
  mixed.list[0].gradient = mixed.list[0].gradient.to(at::kBFloat16);
  Optimizer optimizer(settings(), WeightPrecision::master, 0, 0),
      plain(settings(), WeightPrecision::plain, 0, 0);
  take_steps(optimizer, mixed, 0, 3), take_steps(plain, wide, 0, 3);
  CHECK(at::equal(mixed.list[3].parameter, wide.list[3].parameter));
  CHECK(optimizer.state(mixed.list)["master"][0].defined());
  CHECK_FALSE(optimizer.state(mixed.list)["master"][3].defined());

  Optimizer refusing(settings(), WeightPrecision::plain, 0, 0);
  CHECK(test::failure_of([&] { refusing.step(mixed.list, 1e-4, 1); }).code == ExitCode::internal);
}

TEST_CASE("the learning rate rises, and falls towards 0 after the last sample") {
  OptimizerConfig config;
  config.learning_rate = 2.0, config.warmup_samples = 100;
  const auto check = [&](const char* schedule, const std::vector<double>& wanted) {
    config.schedule = schedule;
    const int64_t samples[] = {1, 50, 100, 325, 550, 1000};
    for (size_t i = 0; i < wanted.size(); ++i) {
      INFO(schedule << " at " << samples[i]);
      CHECK(std::abs(learning_rate(config, {samples[i], samples[i]}, 1000) - wanted[i]) < 1e-12);
    }
  };
  check("constant", {0.02, 1, 2, 2, 2, 2});
  check("linear", {0.02, 1, 2, 1.5, 1, 0});
  check("cosine", {0.02, 1, 2, 1 + std::sqrt(0.5), 1, 0});
  config.warmup_samples = 0;
  CHECK(learning_rate(config, {990, 1000}, 1000) > 0);
  CHECK(learning_rate(config, {0, 10}, 1000) == 2);
  config.warmup_samples = 2000;  // longer than the run
  CHECK(learning_rate(config, {990, 1000}, 1000) == 1);
}
