#include "launcher/train/train_plan.h"

#include <algorithm>

#include "core/error.h"
#include "core/host.h"
#include "core/text.h"
#include "launcher/train/trained_model.h"

namespace frameshard {
namespace {

// A subject has one of its class beside it.
int64_t step_samples(const TrainConfig& config) {
  const bool pairs = config.train.method == "dreambooth" && config.dreambooth.prior_loss_weight > 0;
  return config.train.global_batch * (pairs ? 2 : 1);
}

// Of a step, in bytes.
struct Activations {
  int64_t all = 0;    // where the backward pass begins
  int64_t block = 0;  // of one block, and what its backward pass makes: where it ends
};

// What autograd keeps of a block a token, in numbers of the model's dtype. Of the width: the inputs of three
// norms, of six products, of the rotations (q, k and v at once, and the text's q), of the attentions (q and
// k, q), and the branches whose gates are trained (two); and both sides of the GELU. Frozen weights need
// neither the input of the feed-forward's products nor the branches; a change of rank r keeps r numbers. The
// backward pass makes as much again as a block's widest part. With recomputation a block's input alone is
// kept, and one block at a time whole.
Activations activations_of(const TrainFacts& facts, const TrainConfig& config, MeshShape mesh,
                           bool recompute) {
  const int64_t at_once = std::min(config.train.micro_batch, (step_samples(config) + mesh.dp - 1) / mesh.dp);
  const int64_t other = at_once * facts.other_activation_bytes;
  if (facts.tokens == 0) return {other, 0};
  const ModelFacts& model = facts.model;
  const int64_t tokens = at_once * ((facts.tokens + mesh.cp - 1) / mesh.cp);
  const int64_t d = model.width(), f = model.ffn_dim;
  const int64_t kept = config.trains_adapter() ? 14 * d + f + 6 * config.adapter.rank : 17 * d + 2 * f;
  const int64_t block = tokens * kept * model.element_bytes;
  const int64_t at_work = tokens * (3 * d + 2 * f) * model.element_bytes;
  const int64_t input = tokens * d * model.element_bytes;
  return {other + at_work + (recompute ? block + model.layers * input : model.layers * block),
          block + at_work};
}

// Inputs and outputs of a text encoder's products; attention's shares of a few hundred tokens are as much
// again at the most.
int64_t text_activation_bytes(const WeightList& weights, int64_t tokens, int64_t element_bytes) {
  int64_t numbers = 0;
  for (const LayerSlot& layer : weights.layers()) numbers += layer.weight_shape[0] + layer.weight_shape[1];
  return 2 * numbers * tokens * element_bytes;
}

// What autograd keeps of a clip on its way through encoder and decoder, in numbers a pixel for each channel
// of the widest resolution's: measured with one residual block a resolution (two in the decoder), of which
// most is.
int64_t vae_activation_bytes(const ClipSize& size, const TrainConfig& config, const ModelFacts& model,
                             const WeightList& weights) {
  const auto& windows = config.autoencoder.windows;
  int64_t frames = windows.empty() ? size.frames : 0;
  for (int64_t window : windows) frames = std::max(frames, std::min(window, size.frames));
  int64_t blocks = 0;  // of the decoder's last resolution
  for (const LayerSlot& layer : weights.layers()) {
    if (layer.name.starts_with("decoder.up_blocks.3.") && layer.name.ends_with(".conv1")) ++blocks;
  }
  const int64_t numbers = config.autoencoder.decoder_only ? 21 * blocks : 20 * (2 * blocks - 1);
  return frames * size.height * size.width * model.vae_decoder_dim * numbers * model.vae_element_bytes;
}

int64_t frozen_bytes(const std::vector<TrainedPart>& parts, const TrainConfig& config, at::ScalarType dtype) {
  int64_t bytes = 0;
  for (const TrainedPart& part : parts) {
    for (const WeightSlot& slot : part.weights->slots()) {
      if (config.trains_adapter() || !part.trains(slot.name)) bytes += slot.bytes(dtype);
    }
  }
  return bytes;
}

TrainedSizes sizes_of(const TrainConfig& config, const TrainFacts& facts) {
  const bool half = facts.model.element_bytes == 2;
  int64_t state = 8;  // two averages in float32
  if (half && config.train.precision != "bf16_pure") state += 4;
  if (config.train.ema > 0) state += 4;
  return {.elements = facts.trained,
          .element_bytes = facts.model.element_bytes,
          .state_bytes = state,
          .largest_unit = facts.first_unit + 2 * facts.largest_block,
          // One is filled while two are summed. None spans two blocks.
          .bucket = 3 * std::min<int64_t>(
                            std::max(facts.first_unit, facts.largest_block),
                            int64_t(config.parallel.bucket_megabytes * 1048576) / facts.model.element_bytes)};
}

int cp_size(const TrainConfig& config, int world) {
  const auto cp = int(config.parallel.cp_size.value.value_or(1));
  if (world % cp != 0) {
    fail(ExitCode::config, "parallel.cp_size is {}, but {} rank{} started; it must divide their number", cp,
         world, world == 1 ? " was" : "s were");
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

// Gradients become more while activations become less. A rank with one pass a step frees what it has summed,
// with ZeRO 2 and 3; over several passes gradients add up, whole.
void set_peak(TrainPlan& plan, const Activations& activations, const TrainConfig& config,
              const TrainFacts& facts) {
  const bool several = step_samples(config) > int64_t(plan.mesh.dp) * config.train.micro_batch;
  const int64_t whole = facts.trained * facts.model.element_bytes;
  const int64_t at_begin = plan.zero < 2 || plan.mesh.ranks() == 1 || several ? whole : 0;
  const int64_t at_end = several ? std::max(plan.trained.gradients, whole) : plan.trained.gradients;
  const bool begin_is_more = at_begin + activations.all >= at_end + activations.block;
  plan.gradient_bytes = begin_is_more ? at_begin : at_end;
  plan.activation_bytes = begin_is_more ? activations.all : activations.block;
}

// What is divided, and what is computed twice, where memory is not known to be short: as little as costs
// nothing.
void choose_memory(TrainPlan& plan, const TrainConfig& config, const TrainFacts& facts) {
  const int ranks = plan.mesh.ranks();
  const bool free_zero = config.parallel.zero.is_auto();
  const bool free_recompute = config.train.recompute == "auto" && !config.trains_vae();
  const int64_t room =
      facts.machine.memory_bytes / (facts.machine.device == "cuda" ? 1 : facts.machine.node_ranks());
  auto set = [&](int zero, bool recompute) {
    plan.zero = zero;
    plan.recompute = recompute || zero == 3;
    plan.trained = trained_bytes(sizes_of(config, facts), zero, ranks);
    set_peak(plan, activations_of(facts, config, plan.mesh, plan.recompute), config, facts);
    return room == 0 || plan.bytes() <= room;
  };
  const int zero = int(config.parallel.zero.value.value_or(ranks > 1 ? 1 : 0));
  const bool recompute = config.train.recompute == "on";
  if (set(zero, recompute)) return;
  if (free_recompute && set(zero, true)) {
    plan.reasons.emplace_back("blocks are recomputed: their activations do not fit beside the weights");
    return;
  }
  const int most = config.train.recompute == "off" || config.trains_vae() ? 2 : 3;  // zero 3 recomputes
  for (int more = zero + 1; free_zero && ranks > 1 && more <= most; ++more) {
    if (!set(more, free_recompute || recompute)) continue;
    plan.reasons.push_back(fmt::format("zero {}: with less division a rank's part does not fit into {}", more,
                                       format_bytes(double(room))));
    return;
  }
  plan.warnings.push_back(fmt::format("a rank needs about {}, and has {}; use {}",
                                      format_bytes(double(plan.bytes())), format_bytes(double(room)),
                                      config.trains_vae() ? "a smaller size or shorter autoencoder.windows"
                                                          : "more ranks, a smaller size, or method lora"));
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
  const TrainConfig& config = job.config;
  std::unique_ptr<Denoiser> denoiser;
  std::unique_ptr<TextEncoder> text_encoder;
  std::unique_ptr<Vae> vae;
  if (!config.trains_vae()) denoiser = job.source().denoiser_without_weights();
  if (job.preset && (config.trains_vae() || config.train.text_encoder)) {
    fail(ExitCode::config,
         "{} is planned for by its denoiser alone; name a checkpoint's folder to train more",
         config.model.path);
  }
  if (config.train.text_encoder) text_encoder = job.run.checkpoint->text_encoder_without_weights();
  if (config.trains_vae()) vae = job.run.checkpoint->vae_without_weights();
  const at::Device type(machine.device == "cuda" ? at::kCUDA : at::kCPU);
  const auto dtype = training_dtype(job, type);
  const auto parts = trained_parts({denoiser.get(), text_encoder.get(), vae.get()}, config);
  const TrainedNumbers numbers = trained_numbers(parts, config);
  TrainFacts facts{.model = job.source().facts(dtype, dtype),
                   .machine = machine,
                   .trained = numbers.trained,
                   .all = numbers.all,
                   .first_unit = numbers.first_unit,
                   .largest_block = numbers.largest_block,
                   .epoch_samples = order.epoch_samples(),
                   .items = int64_t(items.size()),
                   .frozen_bytes = frozen_bytes(parts, config, dtype)};
  for (size_t item : items) {
    const ClipSize& size = job.data->items()[item].size;
    if (denoiser) {
      const auto shape = denoiser->latent_shape(size.frames, size.height, size.width);
      facts.tokens = std::max(facts.tokens, denoiser->token_count(shape));
    } else {
      facts.other_activation_bytes = std::max(
          facts.other_activation_bytes, vae_activation_bytes(size, config, facts.model, vae->weights()));
    }
  }
  if (text_encoder) {
    facts.other_activation_bytes = text_activation_bytes(
        text_encoder->weights(), config.data.max_sequence_length, facts.model.element_bytes);
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
  plan.frozen_bytes = facts.frozen_bytes;
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
      "{} rank{}: dp {} x cp {}, zero {}{}{}\n"
      "memory a rank: weights {} + frozen {} + gradients {} + optimizer {} + activations about {} = {}",
      plan.mesh.ranks(), plan.mesh.ranks() == 1 ? "" : "s", plan.mesh.dp, plan.mesh.cp, plan.zero,
      facts.tokens > 0 ? fmt::format(", {} tokens a sample", facts.tokens) : "",
      plan.recompute ? ", blocks recomputed" : "", format_bytes(double(plan.trained.weights)),
      format_bytes(double(plan.frozen_bytes)), format_bytes(double(plan.gradient_bytes)),
      format_bytes(double(plan.trained.optimizer)), format_bytes(double(plan.activation_bytes)),
      format_bytes(double(plan.bytes())));
  for (const std::string& reason : plan.reasons) text += "\n" + reason;
  return text;
}

}  // namespace frameshard
