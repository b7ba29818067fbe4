#include "parallel/trained_parameters.h"

#include <deque>

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include "core/error.h"
#include "core/hash.h"
#include "parallel/bucket.h"
#include "parallel/partition.h"

namespace frameshard {
namespace {

// Sums that may be under way: one moves while the next bucket fills, and one more lest the link rests.
constexpr size_t most_under_way = 2;

// Called by autograd when a weight's gradient is there.
class GradientHook final : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit GradientHook(std::function<void()> call) : call_(std::move(call)) {}
  void operator()(const at::Tensor&) override { call_(); }

 private:
  std::function<void()> call_;
};

struct Range {
  size_t begin, end;
};

// The parameters of each bucket, in flat order; filled from the last one on.
std::vector<Range> divide(const std::vector<TrainedParameter>& parameters, int64_t bucket_bytes) {
  std::vector<Range> buckets;
  int64_t bytes = 0;
  for (size_t i = parameters.size(); i-- > 0;) {
    const bool joins = !buckets.empty() && bytes < bucket_bytes &&
                       parameters[i].unit == parameters[i + 1].unit &&
                       parameters[i].tensor->scalar_type() == parameters[i + 1].tensor->scalar_type();
    if (!joins) {
      buckets.push_back({i, i + 1});
      bytes = 0;
    }
    buckets.back().begin = i;
    bytes += int64_t(parameters[i].tensor->nbytes());
  }
  std::reverse(buckets.begin(), buckets.end());
  return buckets;
}

void check_same_on_all(const std::vector<TrainedParameter>& parameters, Communicator& group) {
  if (parameters.empty()) return;
  std::string all;
  for (const TrainedParameter& each : parameters) {
    all += fmt::format("{} {} {} {}\n", each.name, each.unit, fmt::join(each.tensor->sizes(), "x"),
                       c10::toString(each.tensor->scalar_type()));
  }
  const auto options = parameters[0].tensor->options().dtype(at::kLong).requires_grad(false);
  const at::Tensor mine = at::full({1}, int64_t(fnv1a(all)), options);
  const at::Tensor hashes = group.all_gather(mine, Counts(size_t(group.size()), 1)).cpu();
  for (int64_t i = 0; i < hashes.numel(); ++i) {
    if (hashes[i].item<int64_t>() == hashes[0].item<int64_t>()) continue;
    fail(ExitCode::disagree,
         "{}: ranks 0 and {} train other weights (their names, units, shapes or types differ; rank {} has {} "
         "of them); start all with the same configuration and checkpoint",
         group.name(), i, group.rank(), parameters.size());
  }
}

}  // namespace

// A bucket, and what moves of it.
struct TrainedParameters::Moved {
  Bucket bucket;
  size_t first;                                  // parameter
  Counts counts{};                               // elements a rank, where it is divided
  std::vector<bool> came{};                      // in the last backward pass, of each weight
  size_t awaited = 0;                            // likewise
  bool summed = false;                           // or under way
  std::unique_ptr<PendingExchange> gathering{};  // ZeRO 3
};

struct TrainedParameters::State {
  std::vector<TrainedParameter> parameters;
  Communicator& group;
  Communicator& gather;
  SyncOptions options;
  bool divided = options.zero > 0 && group.size() > 1;
  bool gathers = options.zero == 3 && divided;

  std::vector<Moved> buckets{};  // in flat order
  std::vector<int> holds{};      // of each unit: calls of gather() less those of release()
  bool last_pass = false;
  size_t summed = 0;  // buckets, from the last one
  struct Sum {
    size_t bucket;
    std::unique_ptr<PendingExchange> sum;
  };
  std::deque<Sum> under_way{};

  int unit(const Moved& moved) const { return parameters[moved.first].unit; }
};

TrainedParameters::TrainedParameters(std::vector<TrainedParameter> parameters, Communicator& group,
                                     Communicator& gather, SyncOptions options)
    : state_(new State{
          .parameters = std::move(parameters), .group = group, .gather = gather, .options = options}) {
  State& state = *state_;
  require(gather.size() == group.size() && gather.rank() == group.rank(), "{} and {} are of other ranks",
          group.name(), gather.name());
  check_same_on_all(state.parameters, group);
  const c10::NoGradGuard no_grad;
  int64_t begin = 0;
  for (const Range range : divide(state.parameters, options.bucket_bytes)) {
    add_bucket(range.begin, range.end, begin);
    begin += state.buckets.back().bucket.elements();
  }
  for (const TrainedParameter& each : state.parameters) {
    if (each.unit >= int(state.holds.size())) state.holds.resize(size_t(each.unit) + 1);
  }
  for (size_t b = 0; b < state.buckets.size(); ++b) {
    const Bucket& bucket = state.buckets[b].bucket;
    for (size_t i = 0; i < bucket.weights(); ++i) {
      torch::autograd::impl::set_post_acc_grad_hooks(
          bucket.weight(i), std::make_unique<GradientHook>([this, b, i] { take_gradient(b, i); }));
    }
  }
}

// The model keeps the weights; only what is called here must go.
TrainedParameters::~TrainedParameters() {
  for (const Moved& each : state_->buckets) {
    for (size_t i = 0; i < each.bucket.weights(); ++i) {
      torch::autograd::impl::set_post_acc_grad_hooks(each.bucket.weight(i), nullptr);
    }
  }
}

void TrainedParameters::add_bucket(size_t first, size_t last, int64_t begin) {
  State& state = *state_;
  std::vector<at::Tensor*> weights;
  for (size_t i = first; i < last; ++i) weights.push_back(state.parameters[i].tensor);
  Moved& moved = state.buckets.emplace_back(Moved{.bucket = Bucket(weights), .first = first});
  at::Tensor& flat = moved.bucket.flat();
  state.group.broadcast(flat, 0);
  if (!state.divided) {
    shards_.push_back({.begin = begin, .end = begin + flat.numel(), .parameter = flat});
    return;
  }
  const Partition pieces = Partition::even(flat.numel(), state.group.size());
  const int me = state.group.rank();
  const at::Tensor mine = flat.narrow(0, pieces.begin(me), pieces.size(me));
  shards_.push_back({.begin = begin + pieces.begin(me),
                     .end = begin + pieces.end(me),
                     .parameter = state.gathers ? mine.clone() : mine});
  moved.counts = pieces.sizes();
  if (state.gathers) moved.bucket.free_weights();
}

void TrainedParameters::begin_step() {
  State& state = *state_;
  require(state.under_way.empty(), "a step begins before the gradients of the last one are summed");
  for (size_t i = 0; i < state.buckets.size(); ++i) {
    Moved& each = state.buckets[i];
    each.bucket.clear_gradient();
    each.summed = false;
    if (state.divided) shards_[i].gradient.reset();
    if (state.divided && state.options.zero > 1) each.bucket.free_gradient();
  }
  state.summed = 0;
  state.last_pass = false;
}

void TrainedParameters::sum_next_backward() {
  require(state_->summed == 0, "the gradients of this step are being summed; begin_step() comes first");
  state_->last_pass = true;
  for (Moved& each : state_->buckets) {
    each.awaited = each.bucket.weights();
    each.came.assign(each.awaited, false);
  }
}

// On a thread of autograd's where the weights are on a GPU, while the rank's own waits for the pass to end.
void TrainedParameters::take_gradient(size_t bucket, size_t weight) {
  State& state = *state_;
  Moved& moved = state.buckets[bucket];
  if (moved.summed) {
    fail(
        ExitCode::internal,
        "a gradient of {} came when those of its bucket had been summed: begin_step() is missing, or several "
        "blocks that are recomputed use it",
        state.parameters[moved.first + weight].name);
  }
  moved.bucket.take_gradient(weight);
  if (!state.last_pass || moved.came[weight]) return;
  moved.came[weight] = true;
  --moved.awaited;
  // Always from the last bucket on, whatever comes first here: all ranks sum them in the same order.
  const size_t count = state.buckets.size();
  while (state.summed < count && state.buckets[count - 1 - state.summed].awaited == 0) sum_next_bucket();
}

void TrainedParameters::sum_next_bucket() {
  State& state = *state_;
  const c10::NoGradGuard no_grad;
  const size_t index = state.buckets.size() - 1 - state.summed++;
  Moved& moved = state.buckets[index];
  moved.summed = true;
  at::Tensor& gradient = moved.bucket.gradient();
  if (!state.divided) {
    state.group.all_reduce(gradient);
    shards_[index].gradient = gradient;
    return;
  }
  while (state.under_way.size() >= most_under_way) end_oldest_sum();
  state.under_way.push_back({index, state.group.start_reduce_scatter(gradient, moved.counts)});
  if (state.options.zero > 1) moved.bucket.free_gradient();  // the exchange has it until it ends
}

void TrainedParameters::end_oldest_sum() {
  const State::Sum oldest = std::move(state_->under_way.front());
  state_->under_way.pop_front();
  shards_[oldest.bucket].gradient = oldest.sum->wait();
}

void TrainedParameters::finish_gradients() {
  while (state_->summed < state_->buckets.size()) sum_next_bucket();
  while (!state_->under_way.empty()) end_oldest_sum();
  state_->last_pass = false;
}

void TrainedParameters::publish() {
  State& state = *state_;
  if (!state.divided) return;
  const c10::NoGradGuard no_grad;
  if (!state.gathers) {
    for (Moved& each : state.buckets) state.gather.all_gather_in_place(each.bucket.flat(), each.counts);
    return;
  }
  for (Moved& each : state.buckets) {  // what was gathered ahead is old now
    if (each.gathering) std::exchange(each.gathering, nullptr)->wait();
  }
  for (int unit = 0; unit < units(); ++unit) {
    if (state.holds[size_t(unit)] == 0) continue;
    start_gathering(unit);
    finish_gathering(unit);
  }
}

void TrainedParameters::start_gathering(int unit) {
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < state_->buckets.size(); ++i) {
    Moved& each = state_->buckets[i];
    if (state_->unit(each) != unit || each.gathering) continue;
    each.gathering = state_->gather.start_all_gather(shards_[i].parameter, each.counts);
  }
}

void TrainedParameters::finish_gathering(int unit) {
  for (Moved& each : state_->buckets) {
    if (state_->unit(each) == unit) each.bucket.take_memory(std::exchange(each.gathering, nullptr)->wait());
  }
}

void TrainedParameters::gather(int unit) {
  if (!state_->gathers || unit >= units()) return;
  if (state_->holds[size_t(unit)]++ > 0) return;
  start_gathering(unit);
  finish_gathering(unit);
}

void TrainedParameters::release(int unit) {
  if (!state_->gathers || unit >= units()) return;
  int& holds = state_->holds[size_t(unit)];
  require(holds > 0, "unit {} of the weights is released more often than gathered", unit);
  if (--holds > 0) return;
  for (Moved& each : state_->buckets) {
    if (state_->unit(each) == unit) each.bucket.free_weights();
  }
}

void TrainedParameters::prefetch(int unit) {
  if (state_->gathers && unit < units() && state_->holds[size_t(unit)] == 0) start_gathering(unit);
}

std::shared_ptr<void> TrainedParameters::whole() {
  for (int unit = 0; unit < units(); ++unit) gather(unit);
  return {this, [](TrainedParameters* all) {
            for (int unit = 0; unit < all->units(); ++unit) all->release(unit);
          }};
}

int TrainedParameters::units() const {
  return int(state_->holds.size());
}

int64_t TrainedParameters::elements() const {
  int64_t elements = 0;
  for (const Moved& each : state_->buckets) elements += each.bucket.elements();
  return elements;
}

int64_t TrainedParameters::trained_bytes() const {
  int64_t bytes = 0;
  for (const TrainedParameter& each : state_->parameters) bytes += int64_t(each.tensor->nbytes());
  return bytes;
}

std::vector<std::string> TrainedParameters::names() const {
  std::vector<std::string> names;
  for (const TrainedParameter& each : state_->parameters) names.push_back(each.name);
  return names;
}

std::vector<std::vector<int64_t>> TrainedParameters::shapes() const {
  std::vector<std::vector<int64_t>> shapes;
  for (const TrainedParameter& each : state_->parameters) shapes.push_back(each.tensor->sizes().vec());
  return shapes;
}

int TrainedParameters::zero() const {
  return state_->options.zero;
}

}  // namespace frameshard
