#include "launcher/train/train_plan.h"

#include <algorithm>

#include "core/error.h"
#include "core/host.h"
#include "core/text.h"
#include "launcher/train/trained_model.h"

namespace frameshard {
namespace {

// What autograd keeps of a block a token, in numbers of the model's dtype: inputs of its products, norms,
// rotations and attentions (25 of the width), and both sides of the GELU. With recomputation a block's input
// alone is kept, and one block at a time whole.
int64_t activation_bytes(const TrainFacts& facts, int cp, bool recompute) {
  const ModelFacts& model = facts.model;
  const int64_t tokens = (facts.tokens + cp - 1) / cp;
  const int64_t block = tokens * (25 * model.width() + 2 * model.ffn_dim) * model.element_bytes;
  const int64_t input = tokens * model.width() * model.element_bytes;
  return recompute ? block + model.layers * input : model.layers * block;
}

TrainedSizes sizes_of(const TrainConfig& config, const TrainFacts& facts) {
  const bool half = facts.model.element_bytes == 2;
  int64_t state = 8;  // two averages in float32
  if (half && config.train.precision != "bf16_pure") state += 4;
  if (config.train.ema > 0) state += 4;
  return {.elements = facts.trained,
          .element_bytes = facts.model.element_bytes,
          .state_bytes = state,
          .largest_unit = facts.largest_unit,
          // One is filled while two are summed.
          .bucket = std::min<int64_t>(facts.trained, 3 * int64_t(config.parallel.bucket_megabytes * 1048576) /
                                                         facts.model.element_bytes)};
}

int cp_size(const TrainConfig& config, int world) {
  const auto cp = int(config.parallel.cp_size.value.value_or(1));
  if (world % cp != 0) {
    fail(ExitCode::config, "parallel.cp_size is {}, but {} ranks were started; it must divide their number",
         cp, world);
  }
  return cp;
}

std::vector<double> group_speeds(const PlanMachine& machine, MeshShape mesh) {
  std::vector<double> speeds(size_t(mesh.dp), 0);
  for (int rank = 0; rank < mesh.ranks(); ++rank) {
    speeds[size_t(rank / mesh.cp)] += machine.speeds.empty() ? 1 : machine.speeds[size_t(rank)];
  }
  return speeds;
}

// What is divided, and what is computed twice, where memory is not known to be short: as little as costs
// nothing.
void choose_memory(TrainPlan& plan, const TrainConfig& config, const TrainFacts& facts) {
  const int ranks = plan.mesh.ranks();
  const bool free_zero = config.parallel.zero.is_auto(), free_recompute = config.train.recompute == "auto";
  const int64_t room =
      facts.machine.memory_bytes / (facts.machine.device == "cuda" ? 1 : facts.machine.node_ranks());
  auto set = [&](int zero, bool recompute) {
    plan.zero = zero;
    plan.recompute = recompute || zero == 3;
    plan.trained = trained_bytes(sizes_of(config, facts), zero, ranks);
    plan.activation_bytes = activation_bytes(facts, plan.mesh.cp, plan.recompute);
    return room == 0 || plan.bytes() <= room;
  };
  const int zero = int(config.parallel.zero.value.value_or(ranks > 1 ? 1 : 0));
  const bool recompute = config.train.recompute == "on";
  if (set(zero, recompute)) return;
  if (free_recompute && set(zero, true)) {
    plan.reasons.push_back("blocks are recomputed: their activations do not fit beside the weights");
    return;
  }
  const int most = config.train.recompute == "off" ? 2 : 3;  // zero 3 recomputes
  for (int more = zero + 1; free_zero && ranks > 1 && more <= most; ++more) {
    if (!set(more, free_recompute || recompute)) continue;
    plan.reasons.push_back(fmt::format("zero {}: with less division a rank's part does not fit into {}", more,
                                       format_bytes(double(room))));
    return;
  }
  plan.warnings.push_back(
      fmt::format("a rank needs about {}, and has {}; use more ranks, a smaller size, or method lora",
                  format_bytes(double(plan.bytes())), format_bytes(double(room))));
}

void add_warnings(TrainPlan& plan, const TrainConfig& config, const TrainFacts& facts) {
  const auto& train = config.train;
  if (train.global_batch < plan.mesh.dp) {
    plan.warnings.push_back(fmt::format(
        "train.global_batch is {} for {} groups of ranks: {} of them have nothing to do in each step. The "
        "batch does not grow with the ranks by itself, since that changes what is learnt",
        train.global_batch, plan.mesh.dp, plan.mesh.dp - train.global_batch));
  }
  if (facts.epoch_samples % train.global_batch != 0) {
    plan.warnings.push_back(
        fmt::format("the last step of an epoch has {} samples, not {}: each still counts once",
                    facts.epoch_samples % train.global_batch, train.global_batch));
  }
  int limits = 0;
  for (const auto& limit : {train.max_epochs, train.max_steps, train.max_samples})
    limits += limit.has_value();
  if (limits > 1) {
    plan.warnings.push_back(
        fmt::format("{} limits are given; the smallest ends the training after {} samples, {:.3g} epochs",
                    limits, plan.amount.samples(), plan.amount.epochs()));
  }
}

}  // namespace

TrainFacts train_facts(const TrainJob& job, const PlanMachine& machine, const SampleOrder& order,
                       std::span<const size_t> items) {
  const auto denoiser = job.source().denoiser_without_weights();
  const at::Device type(machine.device == "cuda" ? at::kCUDA : at::kCPU);
  const auto dtype = training_dtype(job, type);
  const TrainedNumbers numbers = trained_numbers(denoiser->weights(), job.config);
  TrainFacts facts{
      .model = job.source().facts(dtype, dtype),
      .machine = machine,
      .trained = numbers.trained,
      .all = numbers.all,
      // Unit 0 stays whole, and so are two blocks at a time: the one that computes and the next one.
      .largest_unit = numbers.first_unit + 2 * numbers.largest_block,
      .epoch_samples = order.epoch_samples(),
      .items = int64_t(items.size()),
      .text_tokens = job.config.data.max_sequence_length};
  for (size_t item : items) {
    const ClipSize& size = job.data->items()[item].size;
    const auto shape = denoiser->latent_shape(size.frames, size.height, size.width);
    facts.tokens = std::max(facts.tokens, denoiser->token_count(shape));
  }
  return facts;
}

TrainPlan make_train_plan(const TrainConfig& config, const TrainFacts& facts) {
  const int world = facts.machine.world, cp = cp_size(config, world);
  TrainPlan plan{.mesh = {.dp = world / cp, .cfg = 1, .cp = cp},
                 .amount = {facts.epoch_samples,
                            config.train.global_batch,
                            {config.train.max_epochs, config.train.max_steps, config.train.max_samples}}};
  plan.speeds = group_speeds(facts.machine, plan.mesh);
  plan.frozen_bytes = config.trains_adapter() ? facts.model.denoiser_bytes : 0;
  choose_memory(plan, config, facts);
  if (config.parallel.zero.value == 3 && config.train.recompute == "off") {
    fail(ExitCode::config,
         "parallel.zero 3 gathers a block's weights when it is computed, and so recomputes it in the "
         "backward pass; set train.recompute to auto");
  }
  add_warnings(plan, config, facts);
  return plan;
}

std::string describe(const TrainPlan& plan, const TrainConfig& config, const TrainFacts& facts) {
  const OptimizerConfig& optimizer = config.optimizer;
  std::string text = fmt::format(
      "{}: {} of {} weights ({:.3g} %) in {}\n"
      "{} items, {} samples an epoch; {} samples in {} steps of {} = {:.4g} epochs, whatever the number of "
      "ranks\n"
      "learning rate {:g}, {}{}; the same for any number of ranks\n",
      config.train.method, facts.trained, facts.all, 100.0 * double(facts.trained) / double(facts.all),
      facts.model.element_bytes == 2 ? "bfloat16" : "float32", facts.items, facts.epoch_samples,
      plan.amount.samples(), plan.amount.steps(), config.train.global_batch, plan.amount.epochs(),
      optimizer.learning_rate, optimizer.schedule,
      optimizer.warmup_samples > 0 ? fmt::format(" after a rise over {} samples", optimizer.warmup_samples)
                                   : "");
  text += fmt::format(
      "{} rank{}: dp {} x cp {}, zero {}, {} tokens a sample{}\n"
      "memory a rank: weights {} + frozen {} + gradients {} + optimizer {} + activations about {} = {}",
      plan.mesh.ranks(), plan.mesh.ranks() == 1 ? "" : "s", plan.mesh.dp, plan.mesh.cp, plan.zero,
      facts.tokens, plan.recompute ? ", blocks recomputed" : "", format_bytes(double(plan.trained.weights)),
      format_bytes(double(plan.frozen_bytes)), format_bytes(double(plan.trained.gradients)),
      format_bytes(double(plan.trained.optimizer)), format_bytes(double(plan.activation_bytes)),
      format_bytes(double(plan.bytes())));
  for (const std::string& reason : plan.reasons) text += "\n" + reason;
  return text;
}

}  // namespace frameshard
