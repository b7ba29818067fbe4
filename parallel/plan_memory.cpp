// Memory and operations of the busiest rank.
#include "parallel/balance.h"
#include "parallel/comm/nccl.h"
#include "parallel/guidance.h"
#include "parallel/plan_costs.h"

namespace frameshard {
namespace {

// The process itself: LibTorch's code and tables.
constexpr int64_t process_bytes = 160 << 20;

int64_t ceil_div(int64_t total, int64_t parts) {
  return (total + parts - 1) / parts;
}

// Of any rank.
int64_t largest_piece(const Split& split, const VideoClass& video, const ModelFacts& model) {
  if (split.speeds.empty()) return ceil_div(video.tokens(), split.mesh.cp);
  int64_t largest = 0;
  for (int group = 0; group < split.mesh.dp * split.mesh.cfg; ++group) {
    largest = std::max(largest, tokens_of(split, video, group).largest());
  }
  return largest;
}

int64_t denoise_activations(const Split& split, const VideoClass& video, const ModelFacts& model,
                            const PlanMachine& machine) {
  const int64_t tokens = largest_piece(split, video, model), width = model.width(),
                each = model.element_bytes, travels = std::max(each, model.exchanged_bytes());
  const int64_t token_row = tokens * width;
  // Residual and its normalised form, each with a float32 temporary; q, k, v and the attention's output, and
  // while they are exchanged the packed, received and joined copies of them.
  const int64_t attention =
      token_row * (2 * each + 2 * 4 + 5 * each + (split.mesh.cp > 1 ? 7 * travels : 2 * each));
  const int64_t feed_forward = token_row * (2 * each + 2 * 4) + tokens * model.ffn_dim * 2 * each;
  const int64_t passes = passes_a_rank(split, video), texts = std::min(passes, video.conditionings);
  const int64_t text = texts * model.layers * 2 * video.text_tokens * width * each;
  // Latents, noise predictions, the solver's history; float32. And the predictions of all passes.
  const int64_t latents = video.grid.total() * model.patch() * 4 * 8;
  const int64_t predictions =
      std::max<int64_t>(0, video.passes() - 2) * video.tokens() * model.patch() * travels;
  const int64_t cached = video.step_cache ? passes * token_row * each : 0;
  const int64_t at_once = passes_together(machine.device == "cuda", tokens) ? texts : 1;
  return std::max(attention, feed_forward) * at_once + text + latents + predictions + cached;
}

}  // namespace

Partition tokens_of(const Split& split, const VideoClass& video, int group) {
  return divide_tokens(video.tokens(), split.speeds_of(group), split.mesh.cp);
}

Partition heads_of(const Split& split, const ModelFacts& model, int group) {
  return divide_heads(model.heads, split.attention.ulysses, split.speeds_of(group));
}

namespace {

// Of the ranks that differ, in a step: those of the busiest one, and what the fastest could do while the
// slowest works, first on tokens and then on heads.
struct UnequalOperations {
  double most = 0, in_time_of_fastest = 0;
};

UnequalOperations unequal_operations(const Split& split, const VideoClass& video, const ModelFacts& model) {
  const double fastest = *std::max_element(split.speeds.begin(), split.speeds.end());
  const int cp = split.mesh.cp, ulysses = split.attention.ulysses;
  const double all = double(video.tokens());
  UnequalOperations result;
  for (int group = 0; group < split.mesh.dp * split.mesh.cfg; ++group) {
    const Partition tokens = tokens_of(split, video, group), rows = tokens.merged(ulysses);
    const Partition heads = heads_of(split, model, group);
    const double passes =
        double(pass_counts(split, video, group / split.mesh.cfg)[size_t(group % split.mesh.cfg)]);
    double slowest_tokens = 0, slowest_heads = 0;
    for (int place = 0; place < cp; ++place) {
      // Without a speed of its own a rank may still have its place's heads in a ring.
      const double speed = split.speeds[size_t(group * cp + place)];
      const double slower = speed > 0 ? fastest / speed : 1;
      const double share = double(heads.size(place % ulysses)) / double(model.heads);
      const double on_heads =
          4 * double(rows.size(place / ulysses)) * all * double(model.width()) * share * double(model.layers);
      const double on_tokens =
          tokens.size(place) == 0 ? 0 : denoiser_operations(model, tokens.size(place), 0, video.text_tokens);
      result.most = std::max(result.most, passes * (on_heads + on_tokens));
      if (on_tokens > 0) slowest_tokens = std::max(slowest_tokens, on_tokens * slower);
      if (on_heads > 0) slowest_heads = std::max(slowest_heads, on_heads * slower);
    }
    if (passes > 0) {
      result.in_time_of_fastest =
          std::max(result.in_time_of_fastest, passes * (slowest_tokens + slowest_heads));
    }
  }
  return result;
}

}  // namespace

double timed_operations(const Split& split, const VideoClass& video, const ModelFacts& model) {
  if (split.speeds.empty()) return step_operations(split, video, model);
  return unequal_operations(split, video, model).in_time_of_fastest;
}

double step_operations(const Split& split, const VideoClass& video, const ModelFacts& model) {
  if (!split.speeds.empty()) return unequal_operations(split, video, model).most;
  const int64_t all = video.tokens(), ulysses = split.attention.ulysses;
  const int64_t mine = ceil_div(all, split.mesh.cp);
  // Heads that do not divide: of its group's rows of attention a rank computes its heads' share.
  const double rows =
      double(std::min(all, mine * ulysses)) * double(ceil_div(model.heads, ulysses)) / double(model.heads);
  const double uneven =
      4 * (rows - double(mine)) * double(all) * double(model.width()) * double(model.layers);
  return double(passes_a_rank(split, video)) *
         (denoiser_operations(model, mine, all, video.text_tokens) + std::max(uneven, 0.0));
}

double denoiser_operations(const ModelFacts& model, int64_t tokens, int64_t all_tokens, int64_t text_tokens) {
  const double s = double(tokens), all = double(all_tokens), t = double(text_tokens),
               d = double(model.width()), f = double(model.ffn_dim);
  return double(model.layers) *
         (8 * s * d * d + 4 * s * all * d + 4 * s * d * d + 4 * t * d * d + 4 * s * t * d + 4 * s * d * f);
}

namespace {

// The weights on a rank's device, or its part of a copy that is shared.
struct PhaseWeights {
  int64_t denoise = 0, decode = 0;
  int64_t waiting = 0;  ///< while other ranks decode
  int64_t decoder = 0;  ///< of those of denoising, what a rank has that will decode
};

// infer.low_memory 2, on GPUs from 1 on: the denoiser and the VAE take turns on a device. Of a node's ranks
// `decoders` hold a VAE; threads of a process count as if they shared it all.
PhaseWeights phase_weights(const Split& split, const ModelFacts& model, const PlanMachine& machine,
                           int64_t decoders) {
  const bool cpu = machine.device == "cpu", threads = machine.backend == "threads";
  // Replicas that are threads decode at moments of their own, beside others that denoise.
  const bool turns = machine.low_memory >= (cpu ? 2 : 1) && !(cpu && threads && split.mesh.dp > 1);
  // Replicas that read again at moments of their own share with none but themselves.
  const int replica = turns && !threads ? split.mesh.cfg * split.mesh.cp : machine.node_ranks();
  const int64_t sharing = machine.shared_weights ? std::min(machine.node_ranks(), replica) : 1;
  const int64_t sharing_vae = threads ? sharing : std::min(sharing, decoders);
  // A copy of each type, as large as the widest.
  const int64_t denoiser = model.denoiser_bytes / std::max<int64_t>(1, sharing / machine.types);
  const int64_t vae = machine.vae_elsewhere ? 0 : model.vae_bytes / sharing_vae;
  // In turns the ranks of a replica wait without weights, but other replicas denoise meanwhile.
  if (turns) return {.denoise = denoiser, .decode = vae, .waiting = split.mesh.dp == 1 ? 0 : denoiser};
  return {.denoise = denoiser + vae,
          .decode = denoiser + vae,
          .waiting = denoiser + (threads ? vae : 0),
          .decoder = threads ? 0 : vae};
}

}  // namespace

RankCosts rank_costs(const Split& split, const VideoClass& video, const ModelFacts& model,
                     const PlanMachine& machine, const Decoding& decoding) {
  RankCosts costs;
  // Threads are measured together, and so are parts of one process; processes share weights alone, and the
  // text encoder is loaded by few of them.
  const int threads = machine.shared_weights && machine.backend == "threads" ? machine.node_ranks() : 1;
  costs.decoders =
      std::max(1, machine.node_ranks() * decoding.ranks / (split.mesh.cfg * split.mesh.cp));  // all replicas'
  const PhaseWeights weights = phase_weights(split, model, machine, costs.decoders);
  costs.weight_bytes = weights.waiting;
  costs.decoder_bytes = weights.decoder;
  costs.text_bytes = machine.text_elsewhere ? 0 : model.text_encoder_bytes / threads;
  costs.denoise_bytes = weights.denoise + denoise_activations(split, video, model, machine);
  costs.decode_bytes =
      weights.decode + (machine.vae_elsewhere ? 0 : decode_activations(video, model, machine, decoding));
  costs.peak_bytes = std::max({costs.text_bytes, costs.denoise_bytes, costs.decode_bytes}) +
                     (machine.device == "cpu" ? process_bytes / threads : 0);
  const StepBytes bytes = step_bytes(split, video, model, 0);
  costs.layer_bytes = bytes.exchange + bytes.ring;
  costs.moved_bytes =
      pass_counts(split, video, 0)[0] * (model.layers * costs.layer_bytes + bytes.gather) + bytes.guidance;
  costs.operations = step_operations(split, video, model);
  return costs;
}

int64_t usable_memory(const PlanMachine& machine) {
  if (machine.device == "cpu") return machine.memory_bytes;
  const bool registers = machine.backend == "nccl" && machine.world > 1;
  return machine.memory_bytes - gpu_overhead_bytes - (registers ? most_registered_bytes : 0);
}

bool fits_memory(const RankCosts& costs, const PlanMachine& machine) {
  if (machine.memory_bytes == 0) return true;
  // Ranks on CPUs share their node's memory; all of them denoise at the same time, and while some decode the
  // others keep their weights.
  const bool cpu = machine.device == "cpu";
  const int64_t ranks = cpu ? machine.node_ranks() : 1, decoders = cpu ? costs.decoders : 1;
  const int64_t together = std::max(ranks * costs.denoise_bytes - (ranks - decoders) * costs.decoder_bytes,
                                    decoders * costs.decode_bytes + (ranks - decoders) * costs.weight_bytes);
  return std::max(costs.peak_bytes, together) <= usable_memory(machine);
}

}  // namespace frameshard
