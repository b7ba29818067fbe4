#include "launcher/plan_world.h"

#include <charconv>
#include <cstdlib>

#include "core/error.h"
#include "core/text.h"

namespace frameshard {
namespace {

constexpr int most_ranks = 65536;

struct Variable {
  const char* name;
  int value;
};

// The first of these variables that is set and not empty.
std::optional<Variable> number_in(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    if (!text || !*text) continue;
    const std::string_view word(text);
    int value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc() || end != word.data() + word.size() || value < 1 || value > most_ranks) {
      fail(ExitCode::usage, "{} is {}; it must be a number from 1 to {}; unset it, or give --world", name,
           quote_for_message(word), most_ranks);
    }
    return Variable{name, value};
  }
  return {};
}

int ceil_div(int total, int parts) {
  return (total + parts - 1) / parts;
}

std::string plural(int count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

// A Slurm job's tasks and nodes, where this process is in one.
std::optional<PlanWorld> slurm_world(std::optional<int> wanted_nodes) {
  const auto nodes = number_in({"SLURM_JOB_NUM_NODES", "SLURM_NNODES"});
  const int count = wanted_nodes.value_or(nodes ? nodes->value : 1);
  if (const auto tasks = number_in({"SLURM_NTASKS"})) {
    // More nodes than tasks: some stay empty.
    return PlanWorld{tasks->value, ceil_div(tasks->value, std::min(count, tasks->value)), tasks->name};
  }
  const auto each = number_in({"SLURM_NTASKS_PER_NODE"});
  if (!each) return {};
  if (int64_t(each->value) * count > most_ranks) {
    fail(ExitCode::usage, "{} on {} make more than {} ranks; give --world",
         fmt::format("{} {}", each->name, each->value), plural(count, "node"), most_ranks);
  }
  return PlanWorld{each->value * count, each->value, each->name};
}

PlanWorld chosen_world(const PlanOptions& options) {
  if (options.world) {
    return {*options.world, ceil_div(*options.world, options.nodes.value_or(1)), "--world"};
  }
  if (const auto slurm = slurm_world(options.nodes)) return *slurm;
  return {1, 1, ""};
}

}  // namespace

std::string PlanWorld::text() const {
  return fmt::format("{} on {}{}", plural(ranks, "rank"), plural(ceil_div(ranks, ranks_per_node), "node"),
                     source.empty() ? "" : ", from " + source);
}

PlanWorld plan_world(const PlanOptions& options) {
  PlanWorld world = chosen_world(options);
  if (options.nodes.value_or(1) > world.ranks) {
    fail(ExitCode::usage, "--nodes {} for {}; give --world, at least {}", *options.nodes,
         plural(world.ranks, "rank"), *options.nodes);
  }
  if (!options.ranks_per_node) return world;
  if (options.nodes && ceil_div(world.ranks, *options.ranks_per_node) != *options.nodes) {
    fail(ExitCode::usage, "--ranks-per-node {} puts {} on {}, not on --nodes {}; leave one of them out",
         *options.ranks_per_node, plural(world.ranks, "rank"),
         plural(ceil_div(world.ranks, *options.ranks_per_node), "node"), *options.nodes);
  }
  world.ranks_per_node = *options.ranks_per_node;
  return world;
}

void count_devices(PlanWorld& world, const RunConfig& config) {
  if (!world.source.empty() || config.devices.empty()) return;
  const auto ranks = int(config.devices.size());
  world = {ranks, ranks, "devices"};
}

}  // namespace frameshard
