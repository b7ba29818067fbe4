// Every derived number of a run, computed before any device is touched and from plain numbers alone: the
// sizes of the mesh, what each rank holds, what is moved, and what that should gain. `frameshard plan` prints
// it on a laptop.
#pragma once

#include <algorithm>
#include <limits>
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
  int64_t text_dim = 0;                                  ///< numbers of a text token
  int64_t vae_decoder_dim = 0;                           ///< channels at full resolution
  int64_t vae_widest_dim = 0;                            ///< channels entering the last resolution
  // Bytes on the device, with the dtypes that the run will use.
  int64_t text_encoder_bytes = 0, denoiser_bytes = 0, vae_bytes = 0;
  int64_t element_bytes = 4, vae_element_bytes = 4;  ///< of the denoiser's widest type, where ranks differ
  int64_t wire_bytes = 0;                            ///< of what ranks exchange; 0: element_bytes

  int64_t exchanged_bytes() const { return wire_bytes > 0 ? wire_bytes : element_bytes; }
  int64_t width() const { return heads * head_dim; }
  /// Numbers of a latent video that make one token.
  int64_t patch() const { return latent_channels * patch_frames * patch_height * patch_width; }
};

/// What the plan must know of the machine.
struct PlanMachine {
  int world = 1;
  int ranks_per_node = 0;  ///< 0: all on one
  std::string device = "cpu";
  std::string backend = "mpi";
  int threads_per_rank = 1;
  std::vector<double> speeds;   ///< of all ranks, in any unit; empty: all alike
  bool shared_weights = false;  ///< ranks of a node hold one copy: threads, or through shared memory
  std::string hardware;         ///< a name of parallel/hardware.h; empty: `device`
  std::string interconnect;     ///< likewise; empty: ndr400 for GPUs, ethernet10 for CPUs
  int64_t memory_bytes = 0;     ///< of a GPU, or of a node whose CPUs compute; 0: not known
  int64_t low_memory = 0;       ///< InferConfig::low_memory
  int types = 1;                ///< of the denoiser over all ranks; each is a copy of the weights
  std::string wire{};           ///< the type that ranks of different types exchange; empty: they are alike
  bool text_elsewhere = false, vae_elsewhere = false;  ///< on a device that no rank computes on

  std::string device_name() const { return hardware.empty() ? device : hardware; }
  std::string network() const {
    return !interconnect.empty() ? interconnect : device == "cuda" ? "ndr400" : "ethernet10";
  }
  /// Of a full node; the last node may have fewer.
  int node_ranks() const { return ranks_per_node == 0 ? world : std::min(ranks_per_node, world); }
  int nodes() const { return (world + node_ranks() - 1) / node_ranks(); }
};

struct TokenGrid {
  int64_t frames, height, width;
  int64_t total() const { return frames * height * width; }
};
TokenGrid token_grid(const RequestConfig& request, const ModelFacts& model);

/// 78 where a video has more positions along an axis than the model knows.
void check_positions(const RequestConfig& request, const ModelFacts& model);

/// How the ranks are divided: the mesh, and how context parallelism is made up.
struct Split {
  MeshShape mesh;
  AttentionShape attention;
  std::vector<double> speeds{};  ///< of all ranks; empty: all alike

  /// Of one context-parallel group, counted in the order of its ranks.
  std::vector<double> speeds_of(int group) const;
  /// Of a replica's context-parallel groups, each the sum of its ranks.
  std::vector<double> group_speeds(int replica) const;
};

/// Estimates for the rank that has most to do; bytes and floating-point operations.
struct RankCosts {
  int64_t text_bytes = 0, denoise_bytes = 0, decode_bytes = 0;  ///< memory of each phase, weights included
  int64_t weight_bytes = 0;   ///< weights of a rank while others decode: its part of a copy that is shared
  int64_t decoder_bytes = 0;  ///< of the weights while denoising, those that only a rank that decodes has
  int64_t peak_bytes = 0;     ///< the largest of them, and the process itself
  int64_t decoders = 1;       ///< ranks of a node that may decode at the same time
  int64_t layer_bytes = 0;    ///< sent by the first rank in one layer of one pass
  int64_t moved_bytes = 0;    ///< sent by the first rank in one denoising step
  double operations = 0;      ///< of one denoising step
};

/// Of denoising alone; without text, loading and decoding.
struct Prediction {
  double step_seconds = 0;     ///< of the largest request
  double exchange_share = 0;   ///< of a step
  double request_seconds = 0;  ///< one video of the largest request
  double total_seconds = 0;    ///< all videos, dealt to the replicas longest first
  double speedup = 1;          ///< of total_seconds, against one such rank
};

/// How videos are decoded. Sizes are in pixels.
struct Decoding {
  static constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();

  int ranks = 1;  ///< of a replica that decode a video together: every decoder_stride()-th, from the first
  double largest_share = 0;         ///< of the picture, of any of them; 0: all alike
  int64_t largest_band = no_limit;  ///< a rank's part of a larger picture does not fit: it comes in tiles
  int64_t held_tiles = 2;           ///< the most on one rank, while they are gathered
  int64_t tile_size = 256;          ///< of a side
  int64_t tile_stride = 192;

  /// What a rank decodes at once where the picture is not in tiles: its rows, and those around that it needs.
  int64_t band(int64_t height, int64_t width) const;
  bool in_tiles(int64_t height, int64_t width) const;
  int64_t tiles(int64_t height, int64_t width) const;  ///< how many; 0: not in tiles
};

/// One way to divide the ranks, with what it would cost.
struct MeshChoice {
  Split split;
  RankCosts costs;
  Prediction predicted;
  Decoding decoding;
  bool fits = true;     ///< into the memory, as far as that is known
  int64_t idle = 0;     ///< replicas without a video
  std::string why_not;  ///< in a word, what the better ones have; empty for the recommended one
};
struct MeshChoices {
  std::vector<MeshChoice> meshes;  ///< the best first
  int64_t evaluations = 0;         ///< predictions that were computed: meshes x different sizes of video
};

struct RunPlan {
  MeshShape mesh;
  AttentionShape attention;
  PlanMachine machine;
  RequestConfig largest;  ///< the request with most tokens: what the numbers below are for
  TokenGrid grid{};
  Partition tokens = Partition::even(0, 1);  ///< of a pass, over the cp group
  Partition heads = Partition::even(0, 1);   ///< over a Ulysses group
  std::vector<std::string> passes;           ///< what each cp group of a replica computes of a step
  Decoding decoding;
  RankCosts costs;
  Prediction predicted;
  int64_t videos = 1;
  std::vector<std::string> reasons;  ///< for this choice, a sentence each
  std::vector<std::string> warnings;

  /// Of the ranks of a context-parallel group; empty: all alike.
  std::vector<double> speeds_of(Coord coord) const {
    return split().speeds_of(coord.dp * mesh.cfg + coord.cfg);
  }
  Split split() const { return {mesh, attention, machine.speeds}; }
  int decoder_stride() const { return mesh.cfg * mesh.cp / decoding.ranks; }
  /// Of the ranks of a replica that decode; empty: all alike.
  std::vector<double> decoder_speeds(int replica) const;
};

/// The split with the least predicted time among those that the config allows. 78 where the sizes do not fit
/// the world, the model or the requests, with the nearest that do.
RunPlan make_plan(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine);

/// Every split of the ranks that this config allows, the best first:
/// 1. those that fit into the memory before those that do not, and those without idle replicas before others;
/// 2. the least time for all videos; times within 10 % of the least count as equal, and among these the least
///    time for one video comes first, so that replicas are made where they gain something;
/// 3. ties: fewer replicas, then more passes of a step at once, then the larger Ulysses group.
/// 78 as make_plan.
MeshChoices rank_meshes(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine);

/// The plan in words, for the start of a run and for `frameshard plan`.
std::string describe(const RunPlan& plan, const ModelFacts& model);
/// At most `limit` rows; 0: all.
std::string describe_choices(const MeshChoices& choices, size_t limit);

/// Videos to make: requests, each times its batch.
int64_t video_count(const RunConfig& config);

/// Floating-point operations of one forward pass: `tokens` of `all_tokens` are this rank's.
double denoiser_operations(const ModelFacts& model, int64_t tokens, int64_t all_tokens, int64_t text_tokens);

}  // namespace frameshard
