// The plan in words.
#include "core/host.h"
#include "parallel/plan_costs.h"
#include "parallel/work_units.h"

namespace frameshard {
namespace {

std::string sizes_text(const Partition& partition) {
  const auto& sizes = partition.sizes();
  if (partition.parts() == 1) return std::to_string(sizes[0]);
  const bool equal = std::all_of(sizes.begin(), sizes.end(), [&](int64_t s) { return s == sizes[0]; });
  if (equal) return fmt::format("{} each of {}", sizes[0], partition.total());
  if (partition.parts() <= 8) return fmt::format("{} of {}", fmt::join(sizes, "+"), partition.total());
  return fmt::format("{} to {} of {}", sizes.back(), sizes.front(), partition.total());
}

// "cp{0,1,..,31}" for a large group.
std::string short_name(const std::string& axis, const std::vector<int>& ranks) {
  if (ranks.size() <= 8) return group_name(axis, ranks);
  return fmt::format("{}{{{},{},..,{}}}", axis, ranks[0], ranks[1], ranks.back());
}

// Group names of one axis: all of a few, else their number and the first.
std::vector<std::string> axis_groups(MeshShape mesh, const char* axis, int size) {
  if (size == 1) return {};
  constexpr int shown = 4;
  const int groups = mesh.ranks() / size;
  if (groups > shown) {
    return {fmt::format("{} {} groups of {}: {} ..", groups, axis, size,
                        short_name(axis, group_ranks(0, mesh, axis)))};
  }
  std::vector<std::string> names;
  for (int rank = 0; int(names.size()) < groups; ++rank) {
    const auto ranks = group_ranks(rank, mesh, axis);
    if (ranks.front() == rank) names.push_back(short_name(axis, ranks));
  }
  return names;
}

std::string groups_text(MeshShape mesh) {
  std::vector<std::string> names;
  for (const auto& [axis, size] : {std::pair("cp", mesh.cp), {"cfg", mesh.cfg}, {"dp", mesh.dp}}) {
    for (const std::string& name : axis_groups(mesh, axis, size)) names.push_back(name);
  }
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, " "));
}

std::string speeds_text(const std::vector<double>& speeds) {
  constexpr size_t shown = 16;
  const size_t count = std::min(speeds.size(), shown);
  return fmt::format("{:g}{}", fmt::join(speeds.begin(), speeds.begin() + int64_t(count), ":"),
                     count < speeds.size() ? ":.." : "");
}

std::string machine_text(const PlanMachine& machine) {
  const std::string ranks =
      fmt::format("{} {} rank{}", machine.world, machine.device_name(), machine.world == 1 ? "" : "s");
  if (machine.nodes() == 1) return ranks;
  return fmt::format("{} on {} nodes, {}", ranks, machine.nodes(), machine.network());
}

std::string seconds_text(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.3g} ms", seconds * 1e3);
  if (seconds < 120) return fmt::format("{:.3g} s", seconds);
  if (seconds < 7200) return fmt::format("{:.1f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

std::string memory_text(const RankCosts& costs, const PlanMachine& machine) {
  const std::string limit = machine.memory_bytes == 0 ? ""
                            : machine.device == "cpu"
                                ? ", the node has " + format_bytes(double(machine.memory_bytes))
                                : " of " + format_bytes(double(machine.memory_bytes));
  const int64_t program =
      costs.peak_bytes - std::max({costs.text_bytes, costs.denoise_bytes, costs.decode_bytes});
  return fmt::format("{} a rank{} (text {}, denoise {}, decode {}{})", format_bytes(double(costs.peak_bytes)),
                     limit, format_bytes(double(costs.text_bytes)), format_bytes(double(costs.denoise_bytes)),
                     format_bytes(double(costs.decode_bytes)),
                     program > 0 ? fmt::format("; the program {}", format_bytes(double(program))) : "");
}

std::string time_text(const RunPlan& plan) {
  std::string text = fmt::format("{} a step, {} a video", seconds_text(plan.predicted.step_seconds),
                                 seconds_text(plan.predicted.request_seconds));
  if (plan.videos > 1) {
    text += fmt::format(", {} all {}", seconds_text(plan.predicted.total_seconds), plan.videos);
  }
  return text + ", predicted for denoising";
}

// Empty where one rank decodes whole pictures.
std::string decode_text(const RunPlan& plan) {
  const Decoding& d = plan.decoding;
  const int64_t tiles = d.tiles(plan.largest.height, plan.largest.width);
  std::string text;
  if (tiles > 0) text = fmt::format("in {} tiles of {}x{}, ", tiles, d.tile_size, d.tile_size);
  if (d.ranks > 1) text += fmt::format("{} ranks together, ", d.ranks);
  return text.substr(0, text.size() - std::min<size_t>(2, text.size()));
}

}  // namespace

std::string describe(const RunPlan& plan, const ModelFacts& model) {
  const auto& m = plan.machine;
  const auto& c = plan.costs;
  std::string text = fmt::format("plan: {} on {}\n", model.name, machine_text(m));
  auto line = [&](const char* label, const std::string& value) {
    text += fmt::format("  {:<10}{}\n", label, value);
  };
  line("mesh", fmt::format("dp {} x cfg {} x cp {}, attention ulysses {} x ring {}", plan.mesh.dp,
                           plan.mesh.cfg, plan.mesh.cp, plan.attention.ulysses, plan.attention.ring));
  line("groups", groups_text(plan.mesh));
  if (!m.speeds.empty()) line("speeds", speeds_text(m.speeds));
  line("backend",
       plan.mesh.ranks() == 1
           ? fmt::format("none needed, {} thread{}", m.threads_per_rank, m.threads_per_rank == 1 ? "" : "s")
           : fmt::format("{}, {} thread{} a rank", m.backend, m.threads_per_rank,
                         m.threads_per_rank == 1 ? "" : "s"));
  if (!m.wire.empty()) line("exchange", fmt::format("in {}: ranks compute in different types", m.wire));
  line("video",
       fmt::format("{}x{}, {} frames, {} steps, guidance {}", plan.largest.width, plan.largest.height,
                   plan.largest.num_frames, plan.largest.num_inference_steps,
                   plan.largest.uses_guidance() ? fmt::format("{}", plan.largest.guidance_scale) : "off"));
  const int64_t frames = plan.tokens.total() / (plan.grid.height * plan.grid.width);
  line("tokens", fmt::format("{} ({} x {} x {}{})", sizes_text(plan.tokens), frames, plan.grid.height,
                             plan.grid.width, frames < plan.grid.frames ? ", a window" : ""));
  line("heads", sizes_text(plan.heads));
  for (const std::string& passes : plan.passes) line("passes", passes);
  if (const std::string decode = decode_text(plan); !decode.empty()) line("decode", decode);
  line("memory", memory_text(c, m));
  line("step", fmt::format("{:.4g} TFLOP a rank, {} sent, {} of it a layer and pass", c.operations / 1e12,
                           format_bytes(double(c.moved_bytes)), format_bytes(double(c.layer_bytes))));
  line("time", time_text(plan));
  if (plan.mesh.ranks() > 1) {
    line("speed-up", fmt::format("{:.2f} predicted, {:.1f} % of a step is exchange", plan.predicted.speedup,
                                 100 * plan.predicted.exchange_share));
  }
  for (const std::string& reason : plan.reasons) line("why", reason);
  for (const std::string& warning : plan.warnings) line("warning", warning);
  return text;
}

std::vector<std::string> passes_text(const Split& split, const RequestConfig& request,
                                     const VideoClass& video) {
  if (video.passes() <= 2) return {};
  constexpr int64_t listed = 16;
  const auto counts = pass_counts(split, video, 0);
  if (video.passes() > listed) {
    return {fmt::format("{} a step ({} texts x {} windows), {} a cp group", video.passes(),
                        video.conditionings, video.windows, fmt::join(counts, "+"))};
  }
  std::vector<double> speeds = split.group_speeds(0);
  if (speeds.empty()) speeds.assign(size_t(split.mesh.cfg), 1.0);
  const Deal deal = schedule(std::vector<double>(size_t(video.passes()), 1.0), speeds);
  std::vector<std::string> lines;
  for (size_t group = 0; group < deal.size(); ++group) {
    std::vector<std::string> names;
    for (const size_t pass : deal[group]) {
      const auto text = int64_t(pass) % video.conditionings, window = int64_t(pass) / video.conditionings;
      const bool negative = request.uses_guidance() && text == video.conditionings - 1;
      names.push_back(negative ? "negative" : fmt::format("prompt {}", text + 1));
      if (video.windows > 1) names.back() += fmt::format(" of window {}", window + 1);
    }
    const std::string who = split.mesh.cfg == 1 ? "" : fmt::format("cfg {}: ", group);
    lines.push_back(who + (names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "))));
  }
  return lines;
}

std::string describe_choices(const MeshChoices& choices, size_t limit) {
  std::string text =
      "meshes, best first:\n"
      "    dp cfg   cp  ulysses x ring    step       all  speed-up  exchange    memory\n";
  const size_t shown = limit == 0 ? choices.meshes.size() : std::min(limit, choices.meshes.size());
  for (size_t i = 0; i < shown; ++i) {
    const MeshChoice& c = choices.meshes[i];
    const MeshShape& mesh = c.split.mesh;
    const AttentionShape& attention = c.split.attention;
    text += fmt::format("  {:>4} {:>3} {:>4}  {:>7} x {:<4} {:>8} {:>9} {:>9.2f} {:>7.1f} % {:>9}  {}\n",
                        mesh.dp, mesh.cfg, mesh.cp, attention.ulysses, attention.ring,
                        seconds_text(c.predicted.step_seconds), seconds_text(c.predicted.total_seconds),
                        c.predicted.speedup, 100 * c.predicted.exchange_share,
                        format_bytes(double(c.costs.peak_bytes)), i == 0 ? "recommended" : c.why_not);
  }
  const size_t more = choices.meshes.size() - shown;
  if (more > 0) text += fmt::format("  and {} more; --all prints them\n", more);
  return text;
}

}  // namespace frameshard
