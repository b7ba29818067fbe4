#include "parallel/plan.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace frameshard {
namespace {

// What a rank is assumed to reach, for predictions alone: useful floating-point operations a second, and
// bytes a second that it sends. CPU: one thread with oneDNN, ranks of one host. CUDA: cuDNN attention and
// bf16 products on an H200, NVLink.
struct Rates {
  double operations, bytes;
};
Rates rates_of(const PlanMachine& machine) {
  if (machine.device == "cuda") return {500e12, 370e9};
  return {60e9 * machine.threads_per_rank, 4e9};
}

// The process itself: LibTorch's code and tables.
constexpr int64_t process_bytes = 160 << 20;
// What the C library keeps of freed blocks, and oneDNN's buffers, while a VAE decodes on a CPU; measured,
// roughly.
constexpr int64_t decode_slack_bytes = 128 << 20;

int64_t branches_a_rank(const RunPlan& plan) {
  return plan.guided && plan.mesh.cfg == 1 ? 2 : 1;
}

int64_t denoise_activations(const RunPlan& plan, const ModelFacts& model) {
  const int64_t tokens = plan.tokens.largest(), width = model.width(), each = model.element_bytes;
  const int64_t token_row = tokens * width;
  // Residual and its normalised form, each with a float32 temporary; q, k, v and the attention's output, and
  // while they are exchanged the packed, received and joined copies of them.
  const int64_t attention =
      token_row * (2 * each + 2 * 4 + 5 * each + (plan.mesh.cp > 1 ? 7 * each : 2 * each));
  const int64_t feed_forward = token_row * (2 * each + 2 * 4) + tokens * model.ffn_dim * 2 * each;
  const int64_t text =
      branches_a_rank(plan) * model.layers * 2 * plan.largest.max_sequence_length * width * each;
  const int64_t latents = plan.grid.total() * model.latent_channels * model.patch_frames *
                          model.patch_height * model.patch_width * 4 *
                          8;  // latents, noise predictions, the solver's history
  return std::max(attention, feed_forward) + text + latents;
}

int64_t decode_activations(const RunPlan& plan, const ModelFacts& model) {
  // Four frames at full resolution: input, padded input, output and residual of a convolution with their
  // blocked copies, and the upsampled input of the last level. The frames themselves go on to the video file.
  const int64_t pixels = plan.largest.width * plan.largest.height * model.frames_per_latent;
  return pixels * (model.vae_decoder_dim * 12 + model.vae_widest_dim * 3) * model.vae_element_bytes +
         (plan.machine.device == "cpu" ? decode_slack_bytes : 0);
}

// Sent by one rank in a step: q, k, v and the output to the other heads' ranks, keys and values round the
// ring, the prediction's gather, and the guidance branches.
int64_t moved_bytes(const RunPlan& plan, const ModelFacts& model) {
  const int64_t tokens = plan.tokens.largest(), each = model.element_bytes;
  const int64_t ulysses = plan.attention.ulysses, ring = plan.attention.ring;
  const int64_t exchange = 4 * tokens * model.width() * (ulysses - 1) / ulysses;
  const int64_t round = 2 * tokens * ulysses * plan.heads.largest() * model.head_dim * (ring - 1);
  const int64_t patch = model.latent_channels * model.patch_frames * model.patch_height * model.patch_width;
  const int64_t gather = tokens * patch * (plan.mesh.cp - 1);
  const int64_t guidance = plan.grid.total() * patch * (plan.mesh.cfg - 1);
  return (branches_a_rank(plan) * (model.layers * (exchange + round) + gather) + guidance) * each;
}

double predicted_seconds(const RunPlan& plan) {
  const Rates rates = rates_of(plan.machine);
  return plan.costs.operations / rates.operations + double(plan.costs.moved_bytes) / rates.bytes;
}

RunPlan plan_for_mesh(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine,
                      MeshShape mesh, const RequestConfig& largest, bool guided) {
  RunPlan plan;
  plan.mesh = mesh, plan.machine = machine, plan.guided = guided, plan.largest = largest;
  plan.attention = solve_attention(config.infer.attention, mesh.cp, model.heads, machine.ranks_per_node);
  plan.grid = token_grid(largest, model);
  plan.tokens = Partition::even(plan.grid.total(), mesh.cp);
  plan.heads = Partition::even(model.heads, plan.attention.ulysses);
  plan.costs = estimate_costs(plan, model);
  if (mesh.dp > video_count(config)) {
    plan.warnings.push_back(
        fmt::format("dp_size {} is more than the {} video{} to make: the other replicas are idle", mesh.dp,
                    video_count(config), video_count(config) == 1 ? "" : "s"));
  }
  if (mesh.cp > model.heads) {
    plan.warnings.push_back(
        fmt::format("cp_size {} is more than the model's {} heads: {}", mesh.cp, model.heads,
                    plan.attention.ulysses > model.heads
                        ? fmt::format("{} of the {} ranks of a Ulysses group attend to no head",
                                      plan.attention.ulysses - model.heads, plan.attention.ulysses)
                        : fmt::format("attention runs as a ring of {}", plan.attention.ring)));
  }
  return plan;
}

void check_positions(const RequestConfig& request, const ModelFacts& model) {
  const TokenGrid grid = token_grid(request, model);
  const int64_t most = std::max({grid.frames, grid.height, grid.width});
  if (model.max_positions > 0 && most > model.max_positions) {
    fail(ExitCode::config,
         "a video of {}x{} and {} frames has {} positions along an axis; this model knows {} "
         "(rope_max_seq_len)",
         request.width, request.height, request.num_frames, most, model.max_positions);
  }
}

}  // namespace

TokenGrid token_grid(const RequestConfig& request, const ModelFacts& model) {
  const int64_t frames = (request.num_frames - 1) / model.frames_per_latent + 1;
  return {.frames = frames / model.patch_frames,
          .height = request.height / (model.pixels_per_latent * model.patch_height),
          .width = request.width / (model.pixels_per_latent * model.patch_width)};
}

double denoiser_operations(const ModelFacts& model, int64_t tokens, int64_t all_tokens, int64_t text_tokens) {
  const double s = double(tokens), all = double(all_tokens), t = double(text_tokens),
               d = double(model.width()), f = double(model.ffn_dim);
  return double(model.layers) *
         (8 * s * d * d + 4 * s * all * d + 4 * s * d * d + 4 * t * d * d + 4 * s * t * d + 4 * s * d * f);
}

RankCosts estimate_costs(const RunPlan& plan, const ModelFacts& model) {
  RankCosts costs;
  const int64_t weights_of = plan.machine.shared_weights ? plan.machine.world : 1;
  costs.text_bytes = model.text_encoder_bytes / weights_of;
  costs.denoise_bytes =
      (model.denoiser_bytes + model.vae_bytes) / weights_of + denoise_activations(plan, model);
  costs.decode_bytes =
      (model.denoiser_bytes + model.vae_bytes) / weights_of + decode_activations(plan, model);
  costs.peak_bytes = std::max({costs.text_bytes, costs.denoise_bytes, costs.decode_bytes}) +
                     (plan.machine.device == "cpu" ? process_bytes / weights_of : 0);
  costs.moved_bytes = moved_bytes(plan, model);
  const int64_t mine = plan.tokens.largest(), all = plan.grid.total();
  // Heads that do not divide: of its group's rows of attention a rank computes its heads' share.
  const double rows = double(plan.tokens.merged(plan.attention.ulysses).largest()) *
                      double(plan.heads.largest()) / double(model.heads);
  const double uneven =
      4 * (rows - double(mine)) * double(all) * double(model.width()) * double(model.layers);
  costs.operations =
      double(branches_a_rank(plan)) *
      (denoiser_operations(model, mine, all, plan.largest.max_sequence_length) + std::max(uneven, 0.0));
  return costs;
}

RunPlan make_plan(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine) {
  const auto requests = all_requests(config);
  for (const RequestConfig& request : requests) check_positions(request, model);
  const bool guided =
      std::all_of(requests.begin(), requests.end(), [](auto& r) { return r.uses_guidance(); });
  auto tokens = [&](const RequestConfig& request) { return token_grid(request, model).total(); };
  auto fewer = [&](auto& a, auto& b) { return tokens(a) < tokens(b); };
  const auto smallest = std::min_element(requests.begin(), requests.end(), fewer);
  const auto largest = std::max_element(requests.begin(), requests.end(), fewer);
  const MeshShape mesh = solve_mesh(config, machine.world, guided, tokens(*smallest));
  RunPlan plan = plan_for_mesh(config, model, machine, mesh, *largest, guided);

  PlanMachine alone = machine;
  alone.world = 1, alone.ranks_per_node = 0;
  RunConfig unsplit = config;
  unsplit.infer.attention = {};
  const RunPlan single = plan_for_mesh(unsplit, model, alone, {}, *largest, guided);
  plan.predicted_speedup = predicted_seconds(single) / predicted_seconds(plan) * mesh.dp;
  return plan;
}

std::vector<RunPlan> all_plans(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine) {
  std::vector<RunPlan> plans;
  for (int dp = 1; dp <= machine.world; ++dp) {
    for (int cfg = 1; cfg <= 2; ++cfg) {
      if (machine.world % (dp * cfg) != 0) continue;
      RunConfig fixed = config;
      fixed.infer.diffusion = {.cp_size = {machine.world / (dp * cfg)}, .cfg_size = {cfg}, .dp_size = {dp}};
      const auto requests = all_requests(config);
      const bool guided =
          std::all_of(requests.begin(), requests.end(), [](auto& r) { return r.uses_guidance(); });
      // More replicas than requests, or a branch that is not computed, leave ranks idle.
      if ((cfg == 2 && !guided) || dp > video_count(config)) continue;
      try {
        plans.push_back(make_plan(fixed, model, machine));
      } catch (const Error&) {  // this mesh does not fit the model
      }
    }
  }
  std::stable_sort(plans.begin(), plans.end(),
                   [](auto& a, auto& b) { return a.predicted_speedup > b.predicted_speedup; });
  return plans;
}

}  // namespace frameshard
