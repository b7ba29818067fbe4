#include "models/training/optimizer.h"

#include <cmath>
#include <numbers>

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>

#include "core/hash.h"

namespace frameshard {
namespace {

// Squares of so many elements are summed in float32: the kernel adds them up one after another, which over
// millions is off by 1e-4.
constexpr int64_t summed_narrow = 256;
// Elements of 16-bit weights that have float32 copies at a time.
constexpr int64_t chunk = int64_t(1) << 22;

at::Tensor sum_of_squares(const at::Tensor& flat) {
  const int64_t rows = flat.numel() / summed_narrow, whole = rows * summed_narrow;
  const auto norms = [](const at::Tensor& matrix) {
    return at::linalg_vector_norm(matrix, 2, at::IntArrayRef{1}, false, at::kFloat).to(at::kDouble);
  };
  at::Tensor sum = norms(flat.narrow(0, whole, flat.numel() - whole).unsqueeze(0)).square().sum();
  if (rows > 0) sum += norms(flat.narrow(0, 0, whole).view({rows, summed_narrow})).square().sum();
  return sum;
}

at::Generator generator_on(const at::Device& device, uint64_t seed) {
  if (device.is_cpu()) return at::detail::createCPUGenerator(seed);
  auto generator =
      at::globalContext().getAcceleratorHooksInterface(device.type()).getNewGenerator(device.index());
  generator.set_current_seed(seed);
  return generator;
}

// The two bfloat16 numbers beside a float32 number are its upper 16 bits and the next ones: adding 16 random
// bits to the lower half carries with the probability that makes the result right on average.
at::Tensor round_by_chance(const at::Tensor& wide, at::Generator& generator) {
  at::Tensor bits = at::randint(0, 1 << 16, wide.sizes(), generator, wide.options().dtype(at::kInt))
                        .add_(wide.view(at::kInt));
  return bits.bitwise_and_(int64_t(-1) << 16).view(at::kFloat).to(at::kBFloat16);
}

}  // namespace

// One step of AdamW for all tensors that it is given, in float32.
struct Optimizer::AdamW {
  const OptimizerConfig& config;
  double rate;
  int64_t step;    // from 1
  double divisor;  // of gradients
  std::vector<at::Tensor> weights{}, gradients{}, averages{}, squares{};

  void add(const at::Tensor& weight, const at::Tensor& gradient, const at::Tensor& average,
           const at::Tensor& square) {
    weights.push_back(weight), gradients.push_back(gradient);
    averages.push_back(average), squares.push_back(square);
  }

  void run() {
    if (weights.empty()) return;
    const auto number = weights.front().options().requires_grad(false);
    const std::vector<at::Tensor> steps(weights.size(), at::full({}, double(step), number));
    std::optional<at::Tensor> scale;
    if (divisor != 1) scale = at::full({}, divisor, number);
    at::_fused_adamw_(weights, gradients, averages, squares, {}, steps, rate, config.beta1, config.beta2,
                      config.weight_decay, config.epsilon, /*amsgrad=*/false, /*maximize=*/false, scale);
    weights.clear(), gradients.clear(), averages.clear(), squares.clear();
  }
};

double learning_rate(const OptimizerConfig& config, Batch batch, int64_t all_samples) {
  const int64_t warmup = config.warmup_samples;
  if (batch.end < warmup) return config.learning_rate * double(batch.end) / double(warmup);
  const double left = double(all_samples - batch.begin) / double(std::max<int64_t>(1, all_samples - warmup));
  const double part = std::clamp(left, 0.0, 1.0);
  if (config.schedule == "cosine") {
    return config.learning_rate * (1 - std::cos(std::numbers::pi * part)) / 2;
  }
  return config.schedule == "linear" ? config.learning_rate * part : config.learning_rate;
}

double Optimizer::gradient_norm(const std::vector<ParameterShard>& shards, bool divided,
                                Communicator& group) {
  const c10::NoGradGuard no_grad;
  const at::Device device = shards.empty() ? at::Device(at::kCPU) : shards.front().gradient.device();
  at::Tensor sum = at::zeros({1}, at::TensorOptions(device).dtype(at::kDouble));
  for (const ParameterShard& shard : shards) {
    if (shard.gradient.numel() > 0) sum += sum_of_squares(shard.gradient);
  }
  if (divided) group.all_reduce(sum);
  return std::sqrt(sum.item<double>());
}

void Optimizer::make_state(const std::vector<ParameterShard>& shards) {
  for (const ParameterShard& shard : shards) {
    const at::Tensor weight = shard.parameter.detach();
    const at::ScalarType dtype = weight.scalar_type();
    const bool is_narrow = dtype != at::kFloat;
    require(!is_narrow || (precision_ == WeightPrecision::master && c10::elementSize(dtype) == 2) ||
                (precision_ == WeightPrecision::stochastic && dtype == at::kBFloat16),
            "the optimizer has no way to train weights of {} like this", c10::toString(dtype));
    const auto wide = weight.options().dtype(at::kFloat);
    ShardState made{.average = at::zeros(weight.sizes(), wide), .square = at::zeros(weight.sizes(), wide)};
    if (is_narrow && precision_ == WeightPrecision::master) made.master = weight.to(at::kFloat);
    if (ema_ > 0) made.ema = weight.to(wide, /*non_blocking=*/false, /*copy=*/true);
    state_.push_back(std::move(made));
  }
}

void Optimizer::step(std::vector<ParameterShard>& shards, double rate, double norm) {
  const c10::NoGradGuard no_grad;
  if (state_.empty()) make_state(shards);
  require(state_.size() == shards.size(), "the optimizer has {} shards and was given {}", state_.size(),
          shards.size());
  ++steps_;
  const double divisor = config_.clip_norm > 0 && norm > config_.clip_norm ? norm / config_.clip_norm : 1;
  AdamW adam{.config = config_, .rate = rate, .step = steps_, .divisor = divisor};
  for (size_t i = 0; i < shards.size(); ++i) {
    if (shards[i].parameter.scalar_type() != at::kFloat || shards[i].parameter.numel() == 0) continue;
    adam.add(shards[i].parameter, shards[i].gradient, state_[i].average, state_[i].square);
  }
  adam.run();
  for (size_t i = 0; i < shards.size(); ++i) {
    ParameterShard& shard = shards[i];
    if (shard.parameter.scalar_type() != at::kFloat) step_narrow(shard, state_[i], adam);
    if (ema_ > 0) state_[i].ema.lerp_(float32_weight(shard, state_[i]), 1 - ema_);
  }
}

void Optimizer::step_narrow(ParameterShard& shard, ShardState& state, AdamW& adam) const {
  const int64_t size = shard.parameter.numel();
  at::Generator generator =
      generator_on(shard.parameter.device(), fnv1a(fmt::format("{} {} {}", seed_, steps_, shard.begin)));
  for (int64_t begin = 0; begin < size; begin += chunk) {
    const auto part = [&](const at::Tensor& whole) {
      return whole.narrow(0, begin, std::min(chunk, size - begin));
    };
    const at::Tensor wide =
        state.master.defined() ? part(state.master) : part(shard.parameter).to(at::kFloat);
    adam.add(wide, part(shard.gradient).to(at::kFloat), part(state.average), part(state.square));
    adam.run();
    part(shard.parameter).copy_(state.master.defined() ? wide : round_by_chance(wide, generator));
  }
}

at::Tensor Optimizer::float32_weight(const ParameterShard& shard, const ShardState& state) {
  return state.master.defined() ? state.master : shard.parameter.to(at::kFloat);
}

int64_t Optimizer::state_bytes() const {
  int64_t bytes = 0;
  for (const ShardState& state : state_) {
    for (const at::Tensor* tensor : {&state.average, &state.square, &state.master, &state.ema}) {
      if (tensor->defined()) bytes += int64_t(tensor->nbytes());
    }
  }
  return bytes;
}

std::map<std::string, std::vector<at::Tensor>> Optimizer::state(const std::vector<ParameterShard>& shards) {
  if (state_.empty()) make_state(shards);
  std::map<std::string, std::vector<at::Tensor>> all;
  for (const ShardState& state : state_) {
    all["exp_avg"].push_back(state.average);
    all["exp_avg_sq"].push_back(state.square);
    if (precision_ == WeightPrecision::master) all["master"].push_back(state.master);
    if (ema_ > 0) all["ema"].push_back(state.ema);
  }
  return all;
}

}  // namespace frameshard
