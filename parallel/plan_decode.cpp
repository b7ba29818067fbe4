// Who decodes, whether in tiles, and the memory that it takes.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/host.h"
#include "parallel/plan_costs.h"
#include "parallel/tiles.h"

namespace frameshard {
namespace {

// What the C library keeps of freed blocks, and oneDNN's buffers, while a VAE decodes on a CPU; measured,
// roughly.
constexpr int64_t decode_slack_bytes = 128 << 20;
// Rows of pixels around a band that its convolutions see; most of them at lower resolutions.
constexpr int64_t band_margin = 16;

int64_t slack_bytes(const PlanMachine& machine) {
  return machine.device == "cpu" ? decode_slack_bytes : 0;
}

// Four frames at full resolution: input, padded input, output and residual of a convolution with their
// blocked copies, and the upsampled input of the last level.
int64_t pixel_bytes(const ModelFacts& model) {
  return model.frames_per_latent * (model.vae_decoder_dim * 12 + model.vae_widest_dim * 3) *
         model.vae_element_bytes;
}

struct PictureSize {
  int64_t height, width, frames;
};
PictureSize picture_of(const VideoClass& video, const ModelFacts& model) {
  return {.height = video.grid.height * model.pixels_per_latent * model.patch_height,
          .width = video.grid.width * model.pixels_per_latent * model.patch_width,
          .frames = (video.grid.frames * model.patch_frames - 1) * model.frames_per_latent + 1};
}

// Memory of the host that decoding in tiles takes: the video's bytes, and as float32 a tile of each rank and
// the edges of a row of tiles. Undivided frames go on to the video file as they come.
int64_t tile_buffers(const PictureSize& size, const Decoding& decoding) {
  const int64_t tile = decoding.tile_size * decoding.tile_size * decoding.held_tiles;
  const int64_t edges = (decoding.tile_size - decoding.tile_stride) * size.width;
  return 3 * size.frames * (size.height * size.width + 4 * (tile + edges));
}

// Ranks of a host share its cores, and one of them with all threads does what several would, without rows
// that neighbours compute twice. A size that does not divide is refused once the mesh is chosen.
int decoders_of(const Split& split, const InferConfig& infer, const PlanMachine& machine) {
  const int ranks = split.mesh.cfg * split.mesh.cp;
  if (infer.vae_parallel_size.value) {
    return ranks % *infer.vae_parallel_size.value == 0 ? int(*infer.vae_parallel_size.value) : 1;
  }
  if (machine.device == "cuda") return machine.backend == "nccl" ? ranks : 1;
  return ranks % machine.node_ranks() == 0 ? std::max(1, ranks / machine.node_ranks()) : 1;
}

// What each of the ranks that decode has for its activations, as fits_memory() counts: beside the weights,
// and the process or, on CPUs, the other ranks' weights.
int64_t left_for_decoding(const RankCosts& costs, int64_t activations, const PlanMachine& machine) {
  const bool cpu = machine.device == "cpu";
  const int64_t process =
      costs.peak_bytes - std::max({costs.text_bytes, costs.denoise_bytes, costs.decode_bytes});
  const int64_t decoders = cpu ? costs.decoders : 1;
  const int64_t others = cpu ? (machine.node_ranks() - decoders) * costs.weight_bytes : 0;
  const int64_t weights = costs.decode_bytes - activations;
  const int64_t memory = usable_memory(machine);
  return std::min(memory - process, (memory - others) / decoders) - weights;
}

// Empty where they are all alike, or have no work in denoising.
std::vector<double> speeds_of_decoders(const Split& split, int decoders, int replica) {
  std::vector<double> speeds;
  const int ranks = split.mesh.cfg * split.mesh.cp;
  for (int rank = 0; !split.speeds.empty() && rank < ranks; rank += ranks / decoders) {
    speeds.push_back(split.speeds[size_t(replica * ranks + rank)]);
  }
  const bool alike =
      std::all_of(speeds.begin(), speeds.end(), [&](double speed) { return speed == speeds[0]; });
  return alike ? std::vector<double>() : speeds;
}

// Of the picture, of any rank that decodes.
double largest_share(const Split& split, int decoders) {
  double largest = 0;
  for (int replica = 0; replica < split.mesh.dp; ++replica) {
    const auto speeds = speeds_of_decoders(split, decoders, replica);
    if (speeds.empty()) continue;
    const double sum = std::accumulate(speeds.begin(), speeds.end(), 0.0);
    largest = std::max(largest, *std::max_element(speeds.begin(), speeds.end()) / sum);
  }
  return largest;
}

}  // namespace

int64_t Decoding::band(int64_t height, int64_t width) const {
  if (ranks == 1) return width * height;
  const int64_t rows =
      largest_share > 0 ? int64_t(std::ceil(double(height) * largest_share)) : (height + ranks - 1) / ranks;
  return width * std::min(height, rows + 2 * band_margin);
}

std::vector<double> RunPlan::decoder_speeds(int replica) const {
  return speeds_of_decoders(split(), decoding.ranks, replica);
}

bool Decoding::in_tiles(int64_t height, int64_t width) const {
  return TileGrid::divides(height, width, {tile_size, tile_stride}) && band(height, width) > largest_band;
}

int64_t Decoding::tiles(int64_t height, int64_t width) const {
  return in_tiles(height, width) ? TileGrid(height, width, {tile_size, tile_stride}).count() : 0;
}

void check_decoders(const InferConfig& infer, const MeshShape& mesh) {
  const int ranks = mesh.cfg * mesh.cp;
  const int64_t wanted = infer.vae_parallel_size.value.value_or(1);
  if (ranks % wanted == 0) return;
  fail(ExitCode::config,
       "infer.vae_parallel_size {} where {} rank{} work{} on a video; it must divide their number", wanted,
       ranks, ranks == 1 ? "" : "s", ranks == 1 ? "s" : "");
}

int64_t decode_activations(const VideoClass& video, const ModelFacts& model, const PlanMachine& machine,
                           const Decoding& decoding) {
  const PictureSize size = picture_of(video, model);
  if (!decoding.in_tiles(size.height, size.width)) {
    return decoding.band(size.height, size.width) * pixel_bytes(model) + slack_bytes(machine);
  }
  const int64_t pixels = std::min(size.height, decoding.tile_size) * std::min(size.width, decoding.tile_size);
  return pixels * pixel_bytes(model) + slack_bytes(machine) +
         (machine.device == "cpu" ? tile_buffers(size, decoding) : 0);
}

Decoding decoding_of(const RunConfig& config, const Split& split, const Workload& work,
                     const ModelFacts& model, const PlanMachine& machine) {
  Decoding decoding{.ranks = decoders_of(split, config.infer, machine),
                    .tile_size = Tiling{}.size * model.pixels_per_latent,
                    .tile_stride = Tiling{}.stride * model.pixels_per_latent};
  const std::string& tiling = config.lossy.vae_tiling;
  if (tiling == "on") decoding.largest_band = 0;
  if (config.place.vae != "default" && config.place.vae != machine.device) decoding.ranks = 1;
  decoding.largest_share = largest_share(split, decoding.ranks);
  // A tile of each rank and the first one's own; of unequal ranks up to a round, and it again in one piece.
  decoding.held_tiles = decoding.ranks + 1;
  for (int replica = 0; replica < split.mesh.dp; ++replica) {
    const auto speeds = speeds_of_decoders(split, decoding.ranks, replica);
    if (!speeds.empty()) decoding.held_tiles = std::max(decoding.held_tiles, 2 * tiles_a_round(speeds));
  }
  // Of another device the plan does not know the memory.
  if (tiling != "auto" || machine.memory_bytes == 0 || machine.vae_elsewhere) return decoding;
  const RankCosts whole = rank_costs(split, work.largest, model, machine, decoding);
  const int64_t activations = decode_activations(work.largest, model, machine, decoding);
  const int64_t left = left_for_decoding(whole, activations, machine) - slack_bytes(machine);
  // Where not even the weights fit, tiles are no help.
  if (left > 0) decoding.largest_band = left / std::max<int64_t>(1, pixel_bytes(model));
  return decoding;
}

std::string tiling_warning(const RunConfig& config, const RunPlan& plan, const ModelFacts& model) {
  if (config.lossy.vae_tiling != "auto") return "";
  const RequestConfig* largest = nullptr;  // picture of those in tiles
  const Decoding& decoding = plan.decoding;
  auto band = [&](const RequestConfig& request) { return decoding.band(request.height, request.width); };
  const auto requests = all_requests(config);
  for (const RequestConfig& request : requests) {
    if (!decoding.in_tiles(request.height, request.width)) continue;
    if (!largest || band(request) > band(*largest)) largest = &request;
  }
  if (!largest) return "";
  const bool cpu = plan.machine.device == "cpu";
  return fmt::format(
      "decoding in tiles: a whole picture of {}x{} takes {} a rank beside the weights, too much for {}'s {}; "
      "blended seams differ a little (lossy.vae_tiling=off to refuse)",
      largest->width, largest->height, format_bytes(double(band(*largest) * pixel_bytes(model))),
      cpu ? "the node" : "the device", format_bytes(double(plan.machine.memory_bytes)));
}

}  // namespace frameshard
