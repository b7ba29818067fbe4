// Every derived number of a run, computed before any device is touched and from plain numbers alone: the
// sizes of the mesh, what each rank holds, what is moved, and what that should gain. `frameshard plan` prints
// it on a laptop.
#pragma once

#include <string>
#include <vector>

#include "core/config.h"
#include "parallel/mesh.h"
#include "parallel/partition.h"
#include "parallel/strategies.h"

namespace frameshard {

/// A model's numbers, from its config files and the headers of its weights.
struct ModelFacts {
  std::string name;  ///< "WanPipeline"
  int64_t heads = 0, head_dim = 0, layers = 0, ffn_dim = 0;
  int64_t latent_channels = 0, patch_frames = 1, patch_height = 2, patch_width = 2;
  int64_t frames_per_latent = 4, pixels_per_latent = 8;  ///< compression of the VAE
  int64_t max_positions = 0;                             ///< along an axis of the grid; 0: no limit
  int64_t vae_decoder_dim = 0;                           ///< channels at full resolution
  int64_t vae_widest_dim = 0;                            ///< channels entering the last resolution
  // Bytes on the device, with the dtypes that the run will use.
  int64_t text_encoder_bytes = 0, denoiser_bytes = 0, vae_bytes = 0;
  int64_t element_bytes = 4, vae_element_bytes = 4;

  int64_t width() const { return heads * head_dim; }
};

/// What the plan must know of the machine.
struct PlanMachine {
  int world = 1;
  int ranks_per_node = 0;  ///< 0: all on one
  std::string device = "cpu";
  std::string backend = "mpi";
  int threads_per_rank = 1;
  bool shared_weights = false;  ///< ranks as threads of one process on CPUs hold one copy
};

struct TokenGrid {
  int64_t frames, height, width;
  int64_t total() const { return frames * height * width; }
};
TokenGrid token_grid(const RequestConfig& request, const ModelFacts& model);

/// Estimates for the rank that has most to do; bytes and floating-point operations.
struct RankCosts {
  int64_t text_bytes = 0, denoise_bytes = 0, decode_bytes = 0;  ///< memory of each phase, weights included
  int64_t peak_bytes = 0;   ///< the largest of them, and the process itself
  int64_t moved_bytes = 0;  ///< sent by a rank in one denoising step
  double operations = 0;    ///< of one denoising step
};

struct RunPlan {
  MeshShape mesh;
  AttentionShape attention;
  PlanMachine machine;
  bool guided = false;
  RequestConfig largest;  ///< the request with most tokens: what the numbers below are for
  TokenGrid grid{};
  Partition tokens = Partition::even(0, 1);  ///< over the cp group
  Partition heads = Partition::even(0, 1);   ///< over a Ulysses group
  RankCosts costs;
  double predicted_speedup = 1;  ///< of a denoising step, against one such rank
  std::vector<std::string> warnings;
};

/// 78 where the sizes do not fit the world, the model or the requests, with the sizes that would.
RunPlan make_plan(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine);

/// Every mesh of `world` ranks that this config allows, the best predicted speed-up first.
std::vector<RunPlan> all_plans(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine);

/// The plan in words, for the start of a run and for `frameshard plan`.
std::string describe(const RunPlan& plan, const ModelFacts& model);
std::string describe_alternatives(const std::vector<RunPlan>& plans);

/// Videos to make: requests, each times its batch.
int64_t video_count(const RunConfig& config);

// The steps of make_plan, for tests.
MeshShape solve_mesh(const RunConfig& config, int world, bool guided, int64_t tokens);
AttentionShape solve_attention(const AttentionConfig& wanted, int cp, int64_t heads, int ranks_per_node);
RankCosts estimate_costs(const RunPlan& plan, const ModelFacts& model);
double denoiser_operations(const ModelFacts& model, int64_t tokens, int64_t all_tokens, int64_t text_tokens);

}  // namespace frameshard
