// Seconds: computing, exchanging, and all videos over the replicas.
#include <numeric>
#include <queue>

#include "parallel/hardware.h"
#include "parallel/plan_costs.h"

namespace frameshard {
namespace {

// One collective of a group: what part of its bytes goes to other nodes, and how many ranks of a node send
// that way at once.
struct Route {
  double between = 0;
  int senders = 1;
};

double seconds_of(int64_t bytes, int64_t calls, const Route& route, const Rates& rates) {
  const double inside = double(bytes) * (1 - route.between) / rates.link;
  if (route.between == 0) return inside + double(calls) * rates.call_seconds;
  const int sharing = rates.one_adapter_a_node ? route.senders : 1;
  return inside + double(bytes) * route.between * sharing / rates.network +
         double(calls) * rates.network_call_seconds;
}

// All-to-all and all-gather over `size` neighbours: the worst placed rank shares its node with as many of
// them as the greatest common divisor says.
Route to_all(int size, const Rates& rates) {
  if (rates.one_node || rates.node_ranks % size == 0) return {};
  return {.between = 1 - double(std::gcd(size, rates.node_ranks)) / size, .senders = rates.node_ranks};
}

// Hops of `stride` ranks inside a group of `size` neighbours: a step of the ring is as slow as its slowest
// hop.
Route to_next(int size, int stride, const Rates& rates) {
  if (rates.one_node || rates.node_ranks % size == 0) return {};
  return {.between = 1, .senders = std::min(stride, rates.node_ranks)};
}

// Each step of the ring but the first joins its output to what is there, in float32: 20 bytes read and
// written an element, by about a seventh of the kernels of a layer.
double ring_join_seconds(const Split& split, const VideoClass& video, const ModelFacts& model,
                         const Rates& rates) {
  const double elements = double(video.tokens()) / split.mesh.cp * double(model.width());
  return (split.attention.ring - 1) * std::max(20 * elements / rates.memory, rates.layer_seconds / 7);
}

}  // namespace

Rates rates_of(const PlanMachine& machine) {
  const DeviceKind& kind = device_kind(machine.device_name());
  const bool cpu = kind.type == "cpu";
  const Interconnect& network = interconnect(machine.network());
  const double threads = cpu ? machine.threads_per_rank : 1;
  return {.operations = kind.operations * threads,
          .memory = kind.memory_rate * threads,
          .link = kind.link_rate,
          .network = network.rate,
          .call_seconds = kind.call_seconds,
          .network_call_seconds = network.call_seconds,
          .layer_seconds = kind.layer_seconds,
          .one_adapter_a_node = network.one_a_node || cpu,
          .node_ranks = machine.node_ranks(),
          .one_node = machine.nodes() == 1};
}

StepSeconds step_seconds(const Split& split, const VideoClass& video, const ModelFacts& model,
                         const Rates& rates) {
  const int cp = split.mesh.cp, ulysses = split.attention.ulysses, ring = split.attention.ring;
  const StepBytes bytes = step_bytes(split, video, model, 0);
  double layer = 0, forward = 0, step = 0;
  if (ulysses > 1) layer += seconds_of(bytes.exchange, 2, to_all(ulysses, rates), rates);
  if (ring > 1) layer += seconds_of(bytes.ring, ring - 1, to_next(cp, ulysses, rates), rates);
  if (cp > 1) forward = seconds_of(bytes.gather, 1, to_all(cp, rates), rates);
  if (split.mesh.cfg > 1)
    step = seconds_of(bytes.guidance, 1, to_next(split.mesh.cfg * cp, cp, rates), rates);
  const double passes = double(passes_a_rank(split, video)), layers = double(model.layers);
  return {.compute = std::max(timed_operations(split, video, model) / rates.operations,
                              passes * layers * rates.layer_seconds) +
                     passes * layers * ring_join_seconds(split, video, model, rates),
          .exchange = passes * (layers * layer + forward) + step};
}

double seconds_for_all(const Workload& work, const std::vector<double>& seconds, int replicas) {
  double sum = 0, longest = 0;
  for (size_t i = 0; i < work.classes.size(); ++i) {
    sum += seconds[i] * double(work.classes[i].videos);
    longest = std::max(longest, seconds[i]);
  }
  if (replicas == 1) return sum;
  if (work.classes.size() == 1) return double((work.videos + replicas - 1) / replicas) * longest;
  // With so many videos the last round hardly counts, and need not be played through for each mesh.
  constexpr int64_t many = 4096;
  if (work.videos > many) return std::max(longest, sum / replicas);
  std::priority_queue<double, std::vector<double>, std::greater<>> free_at(
      std::greater<>{}, std::vector<double>(size_t(std::min<int64_t>(replicas, work.videos)), 0.0));
  double end = 0;
  for (size_t i = 0; i < work.classes.size(); ++i) {
    for (int64_t video = 0; video < work.classes[i].videos; ++video) {
      const double done = free_at.top() + seconds[i];
      free_at.pop();
      free_at.push(done);
      end = std::max(end, done);
    }
  }
  return end;
}

}  // namespace frameshard
