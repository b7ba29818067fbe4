// What a split of the ranks costs: bytes sent, memory, seconds. Closed forms, so that thousands of splits can
// be compared.
#pragma once

#include "parallel/plan.h"

namespace frameshard {

/// Videos of one size: they cost the same.
struct VideoClass {
  TokenGrid grid;
  int64_t text_tokens, steps;
  int64_t conditionings;      ///< texts of a step: prompts, and with guidance the negative one
  int64_t videos;             ///< how many
  bool step_cache = false;    ///< what the blocks add to the tokens is kept from step to step
  int64_t windows = 1;        ///< each with a pass for every text
  int64_t window_frames = 0;  ///< of the grid; 0: all

  int64_t passes() const { return conditionings * windows; }
  /// Of one pass of the denoiser.
  int64_t tokens() const {
    return (window_frames == 0 ? grid.frames : window_frames) * grid.height * grid.width;
  }
};
VideoClass video_class(const RequestConfig& request, const ModelFacts& model);

/// What is to be made.
struct Workload {
  std::vector<VideoClass> classes;  ///< the costliest first
  VideoClass largest;               ///< the one with most tokens
  int64_t least_passes = 1;         ///< of a step of any of them
  int64_t videos = 0, least_tokens = 0;
};
Workload workload_of(const std::vector<RequestConfig>& requests, const ModelFacts& model);

/// The tokens of each rank of a context-parallel group, and the heads of each place in its Ulysses groups.
Partition tokens_of(const Split& split, const VideoClass& video, int group);
Partition heads_of(const Split& split, const ModelFacts& model, int group);

/// How many of a step's passes each context-parallel group of a replica computes.
std::vector<int64_t> pass_counts(const Split& split, const VideoClass& video, int replica);
/// The most that any rank computes, one after the other.
int64_t passes_a_rank(const Split& split, const VideoClass& video);

/// Sent by one rank in one denoising step, exactly: what Communicator counts (CommStats::bytes_sent).
struct StepBytes {
  int64_t exchange = 0;  ///< to the other heads' ranks and back, in one layer of one pass
  int64_t ring = 0;      ///< keys and values round the ring, likewise
  int64_t gather = 0;    ///< the prediction of one pass, to the cp group
  int64_t guidance = 0;  ///< the predictions of its passes, to the ranks of the others
};
/// `rank` is one of the world, cp fastest.
StepBytes step_bytes(const Split& split, const VideoClass& video, const ModelFacts& model, int rank);

/// The same for one whole video, apart for the two groups.
struct SentBytes {
  int64_t cp = 0, cfg = 0;
};
SentBytes sent_bytes(const Split& split, const VideoClass& video, const ModelFacts& model, int rank);

/// Floating-point operations of the busiest rank in one step.
double step_operations(const Split& split, const VideoClass& video, const ModelFacts& model);
/// What the fastest rank could do in the time of a step: with unequal ranks more.
double timed_operations(const Split& split, const VideoClass& video, const ModelFacts& model);

RankCosts rank_costs(const Split& split, const VideoClass& video, const ModelFacts& model,
                     const PlanMachine& machine, const Decoding& decoding = {});

/// Bytes that a decoding rank needs beside the weights.
int64_t decode_activations(const VideoClass& video, const ModelFacts& model, const PlanMachine& machine,
                           const Decoding& decoding);
/// Who decodes, and from which size on in tiles: lossy.vae_tiling, and with auto the memory that is left.
Decoding decoding_of(const RunConfig& config, const Split& split, const Workload& work,
                     const ModelFacts& model, const PlanMachine& machine);
/// 78 where infer.vae_parallel_size does not divide a replica's ranks.
void check_decoders(const InferConfig& infer, const MeshShape& mesh);
/// Where vae_tiling is auto and a video is decoded in tiles: why. Else empty.
std::string tiling_warning(const RunConfig& config, const RunPlan& plan, const ModelFacts& model);

/// Of a GPU's memory, what LibTorch does not get or cannot use: the driver's and NCCL's, and gaps between
/// blocks.
constexpr int64_t gpu_overhead_bytes = int64_t{3} << 29;
/// What of the machine's memory the ranks can have.
int64_t usable_memory(const PlanMachine& machine);
/// Whether this fits into the machine's memory, as far as that is known.
bool fits_memory(const RankCosts& costs, const PlanMachine& machine);

/// The machine's rates, looked up once.
struct Rates {
  double operations, memory, link, network;  ///< a second
  double call_seconds, network_call_seconds, layer_seconds;
  bool one_adapter_a_node;
  int node_ranks;
  bool one_node;
};
Rates rates_of(const PlanMachine& machine);

struct StepSeconds {
  double compute = 0, exchange = 0;
  double total() const { return compute + exchange; }
};
StepSeconds step_seconds(const Split& split, const VideoClass& video, const ModelFacts& model,
                         const Rates& rates);

/// Seconds until `replicas` have made all videos: each takes the next one, in order, when it is free.
/// `seconds[i]` is one video of class i.
double seconds_for_all(const Workload& work, const std::vector<double>& seconds, int replicas);

/// True where the ranks of a group of `size` neighbours do not all lie on one node.
bool spans_nodes(int size, const PlanMachine& machine);

struct Sizes {
  DiffusionConfig mesh;
  AttentionConfig attention;
};
/// Every split that fixed sizes allow. 78 where there is none, with the nearest. Those with more replicas
/// than videos are among them, but do not count as one where dp_size is auto.
std::vector<Split> legal_splits(const Sizes& wanted, const Workload& work, const ModelFacts& model,
                                const PlanMachine& machine);

/// What each context-parallel group of the first replica computes of a step, where there are more passes than
/// guidance's two: "cfg 0: prompt 1, negative"; else nothing.
std::vector<std::string> passes_text(const Split& split, const RequestConfig& request,
                                     const VideoClass& video);

/// Why the first is better than `other`, in a word or two.
std::string why_not(const MeshChoice& best, const MeshChoice& other, const PlanMachine& machine,
                    const Workload& work);
/// Why this split, a sentence each.
std::vector<std::string> reasons_for(const MeshChoice& choice, const Workload& work, const ModelFacts& model,
                                     const PlanMachine& machine);

}  // namespace frameshard
