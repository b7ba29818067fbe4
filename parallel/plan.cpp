#include "parallel/plan.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/host.h"
#include "parallel/context_windows.h"
#include "parallel/plan_costs.h"

namespace frameshard {
namespace {

// Times for all videos that differ by less are no reason to let the first video wait.
constexpr double equal_times = 1.1;

// `choice`: its split and how it decodes.
MeshChoice evaluated(MeshChoice choice, const Workload& work, const ModelFacts& model,
                     const PlanMachine& machine, const Rates& rates) {
  const Split& split = choice.split;
  choice.costs = rank_costs(split, work.largest, model, machine, choice.decoding);
  // A video in windows may have fewer tokens at once and more to decode.
  for (const VideoClass& video : work.classes) {
    if (work.classes.size() == 1) break;
    const RankCosts costs = rank_costs(split, video, model, machine, choice.decoding);
    choice.costs.denoise_bytes = std::max(choice.costs.denoise_bytes, costs.denoise_bytes);
    choice.costs.decode_bytes = std::max(choice.costs.decode_bytes, costs.decode_bytes);
    choice.costs.peak_bytes = std::max(choice.costs.peak_bytes, costs.peak_bytes);
  }
  choice.fits = fits_memory(choice.costs, machine);
  choice.idle = std::max<int64_t>(0, split.mesh.dp - work.videos);
  std::vector<double> seconds;
  for (const VideoClass& video : work.classes) {
    seconds.push_back(double(video.steps) * step_seconds(split, video, model, rates).total());
  }
  const StepSeconds step = step_seconds(split, work.largest, model, rates);
  choice.predicted = {.step_seconds = step.total(),
                      .exchange_share = step.exchange / step.total(),
                      .request_seconds = double(work.largest.steps) * step.total(),
                      .total_seconds = seconds_for_all(work, seconds, split.mesh.dp)};
  return choice;
}

// The documented order (plan.h). `least`: the least time for all videos.
bool better(const MeshChoice& a, const MeshChoice& b, double least) {
  auto key = [&](const MeshChoice& choice) {
    const Prediction& p = choice.predicted;
    const bool near = p.total_seconds <= equal_times * least;
    return std::tuple(choice.idle > 0, !choice.fits, !near, near ? p.request_seconds : p.total_seconds,
                      near ? p.total_seconds : p.request_seconds, choice.split.mesh.dp,
                      -choice.split.mesh.cfg, -choice.split.attention.ulysses);
  };
  return key(a) < key(b);
}

double least_total(const std::vector<MeshChoice>& choices) {
  // Among those that come first by rule 1.
  auto rank = [](const MeshChoice& c) { return std::tuple(c.idle > 0, !c.fits, c.predicted.total_seconds); };
  return std::min_element(choices.begin(), choices.end(), [&](auto& a, auto& b) { return rank(a) < rank(b); })
      ->predicted.total_seconds;
}

MeshChoices rank_splits(const RunConfig& config, const Workload& work, const ModelFacts& model,
                        const PlanMachine& machine) {
  const Rates rates = rates_of(machine);
  MeshChoices choices;
  for (const Split& split :
       legal_splits({config.infer.diffusion, config.infer.attention}, work, model, machine)) {
    const Decoding decoding = decoding_of(config, split, work, model, machine);
    choices.meshes.push_back(evaluated({.split = split, .decoding = decoding}, work, model, machine, rates));
    choices.evaluations += int64_t(work.classes.size());
  }
  PlanMachine one = machine;
  one.world = 1, one.ranks_per_node = 0;
  const double alone = evaluated({}, work, model, one, rates_of(one)).predicted.total_seconds;
  const double least = least_total(choices.meshes);
  std::sort(choices.meshes.begin(), choices.meshes.end(),
            [&](auto& a, auto& b) { return better(a, b, least); });
  for (MeshChoice& choice : choices.meshes) {
    choice.predicted.speedup = alone / choice.predicted.total_seconds;
    choice.why_not = why_not(choices.meshes.front(), choice, machine, work);
  }
  return choices;
}

std::string plural(int64_t count) {
  return count == 1 ? "" : "s";
}

std::vector<std::string> warnings_for(const RunPlan& plan, const ModelFacts& model, bool fits) {
  std::vector<std::string> warnings;
  if (plan.mesh.dp > plan.videos) {
    warnings.push_back(
        fmt::format("dp_size {} is more than the {} video{} to make: the other replicas are idle",
                    plan.mesh.dp, plan.videos, plural(plan.videos)));
  }
  if (plan.mesh.cp > model.heads) {
    const int64_t without = plan.attention.ulysses - model.heads;
    warnings.push_back(
        fmt::format("cp_size {} is more than the model's {} heads: {}", plan.mesh.cp, model.heads,
                    without > 0 ? fmt::format("{} of the {} ranks of a Ulysses group attend to no head",
                                              without, plan.attention.ulysses)
                                : fmt::format("attention runs as a ring of {}", plan.attention.ring)));
  }
  if (plan.predicted.speedup < 1) {
    warnings.push_back(fmt::format(
        "{} ranks are predicted to take {:.2f} times as long as one: start fewer, or make larger videos",
        plan.mesh.ranks(), 1 / plan.predicted.speedup));
  }
  if (!fits) {
    const bool cpu = plan.machine.device == "cpu";
    warnings.push_back(fmt::format("{} a rank does not fit into {}'s {}; use a smaller video or more ranks",
                                   format_bytes(double(plan.costs.peak_bytes)),
                                   cpu ? "the node" : "the device",
                                   format_bytes(double(plan.machine.memory_bytes))));
  }
  return warnings;
}

// Options that were asked for and change nothing here.
std::vector<std::string> without_effect(const RunConfig& config, const RunPlan& plan) {
  std::vector<std::string> warnings;
  if (config.infer.cuda_graph == "on") {
    std::string why;
    if (plan.machine.device == "cpu") why = "CPUs compute";
    if (plan.mesh.cp > 1) why = fmt::format("cp_size is {}: NCCL's exchanges are not recorded", plan.mesh.cp);
    if (config.lossy.step_cache > 0) why = "lossy.step_cache makes the steps differ";
    if (!why.empty()) warnings.push_back("infer.cuda_graph=on has no effect, since " + why);
  }
  if (config.infer.overlap_exchange == "on" && (plan.attention.ulysses == 1 || plan.attention.ring > 1)) {
    warnings.push_back(fmt::format("infer.overlap_exchange=on has no effect with ulysses {} x ring {}",
                                   plan.attention.ulysses, plan.attention.ring));
  }
  return warnings;
}

const RequestConfig& largest_of(const std::vector<RequestConfig>& requests, const ModelFacts& model) {
  return *std::max_element(requests.begin(), requests.end(), [&](auto& a, auto& b) {
    auto size = [&](const RequestConfig& request) {
      return std::pair(video_class(request, model).tokens(), token_grid(request, model).total());
    };
    return size(a) < size(b);
  });
}

}  // namespace

TokenGrid token_grid(const RequestConfig& request, const ModelFacts& model) {
  const int64_t frames = (request.num_frames - 1) / model.frames_per_latent + 1;
  return {.frames = frames / model.patch_frames,
          .height = request.height / (model.pixels_per_latent * model.patch_height),
          .width = request.width / (model.pixels_per_latent * model.patch_width)};
}

void check_positions(const RequestConfig& request, const ModelFacts& model) {
  TokenGrid grid = token_grid(request, model);
  if (const int64_t window = video_class(request, model).window_frames; window > 0) grid.frames = window;
  const int64_t most = std::max({grid.frames, grid.height, grid.width});
  if (model.max_positions > 0 && most > model.max_positions) {
    fail(ExitCode::config,
         "a video of {}x{} and {} frames has {} positions along an axis; this model knows {} "
         "(rope_max_seq_len)",
         request.width, request.height, request.num_frames, most, model.max_positions);
  }
}

int64_t video_count(const RunConfig& config) {
  int64_t videos = 0;
  for (const RequestConfig& request : all_requests(config)) videos += request.batch_size;
  return videos;
}

VideoClass video_class(const RequestConfig& request, const ModelFacts& model) {
  VideoClass video{.grid = token_grid(request, model),
                   .text_tokens = request.max_sequence_length,
                   .steps = request.num_inference_steps,
                   .conditionings = request.conditionings(),
                   .videos = 0};
  if (!request.context) return video;
  // In frames of the latents, which are what the windows are cut from (models/pipeline.cpp).
  const int64_t frames = (request.num_frames - 1) / model.frames_per_latent + 1;
  const int64_t window = (request.context->window - 1) / model.frames_per_latent + 1;
  const auto windows = context_windows(frames, window, request.context->overlap / model.frames_per_latent);
  video.windows = int64_t(windows.size());
  video.window_frames = windows[0].count() / model.patch_frames;
  return video;
}

Workload workload_of(const std::vector<RequestConfig>& requests, const ModelFacts& model) {
  Workload work;
  std::map<std::array<int64_t, 8>, VideoClass> classes;
  for (const RequestConfig& request : requests) {
    const VideoClass video = video_class(request, model);
    const auto [found, added] =
        classes.try_emplace({video.grid.frames, video.grid.height, video.grid.width, video.text_tokens,
                             video.steps, video.conditionings, video.windows, video.window_frames},
                            video);
    found->second.videos += request.batch_size;
    const bool first = work.videos == 0;
    work.videos += request.batch_size;
    work.least_tokens = first ? video.tokens() : std::min(work.least_tokens, video.tokens());
    work.least_passes = first ? video.passes() : std::min(work.least_passes, video.passes());
  }
  for (const auto& [key, video] : classes) work.classes.push_back(video);
  std::stable_sort(work.classes.begin(), work.classes.end(), [&](auto& a, auto& b) {
    auto operations = [&](const VideoClass& v) { return double(v.steps) * step_operations({}, v, model); };
    return operations(a) > operations(b);
  });
  work.largest = video_class(largest_of(requests, model), model);
  return work;
}

namespace {

Workload workload_of(const RunConfig& config, const ModelFacts& model) {
  Workload work = workload_of(all_requests(config), model);
  for (VideoClass& video : work.classes) video.step_cache = config.lossy.step_cache > 0;
  work.largest.step_cache = config.lossy.step_cache > 0;
  return work;
}

}  // namespace

MeshChoices rank_meshes(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine) {
  return rank_splits(config, workload_of(config, model), model, machine);
}

RunPlan make_plan(const RunConfig& config, const ModelFacts& model, const PlanMachine& machine) {
  const auto requests = all_requests(config);
  for (const RequestConfig& request : requests) check_positions(request, model);
  const Workload work = workload_of(config, model);
  const MeshChoice best = rank_splits(config, work, model, machine).meshes.front();
  RunPlan plan{.mesh = best.split.mesh,
               .attention = best.split.attention,
               .machine = machine,
               .largest = largest_of(requests, model)};
  plan.grid = work.largest.grid;
  plan.tokens = tokens_of(best.split, work.largest, 0);
  plan.heads = heads_of(best.split, model, 0);
  plan.passes = passes_text(best.split, plan.largest, work.largest);
  check_decoders(config.infer, plan.mesh);
  plan.decoding = best.decoding;
  plan.costs = best.costs, plan.predicted = best.predicted, plan.videos = work.videos;
  plan.reasons = reasons_for(best, work, model, machine);
  if (config.lossy.vae_tiling == "on" && plan.decoding.in_tiles(plan.largest.height, plan.largest.width)) {
    plan.reasons.emplace_back("decoding in tiles, whose seams are blended: lossy.vae_tiling is on");
  }
  plan.warnings = warnings_for(plan, model, best.fits);
  for (std::string& warning : without_effect(config, plan)) plan.warnings.push_back(std::move(warning));
  if (const std::string tiles = tiling_warning(config, plan, model); !tiles.empty()) {
    plan.warnings.push_back(tiles);
  }
  return plan;
}

}  // namespace frameshard
