// Weights trained by n ranks against the same weights trained by one on all samples: every ZeRO stage,
// buckets of any size, any number of backward passes a rank.
#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "parallel/partition.h"
#include "parallel/trained_parameters.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::check;
using frameshard::testing::on_ranks;

namespace {

constexpr int64_t width = 7, samples = 8;
constexpr double rate = 1.0 / 128;

// Two units, the first of which is applied twice. Sizes are odd, and one weight is never used.
struct Model {
  at::Tensor first = initial_noise({width, width}, 1) * 0.3, first_bias = initial_noise({width}, 2);
  at::Tensor small = at::arange(5, at::kFloat).to(at::kBFloat16);
  at::Tensor second = initial_noise({width, width}, 3) * 0.3, second_bias = initial_noise({width}, 4);
  at::Tensor left = initial_noise({3}, 5), right = initial_noise({1, 9}, 6), unused = initial_noise({11}, 7);

  std::vector<TrainedParameter> parameters() {
    return {{"first", &first, 0},
            {"first_bias", &first_bias, 0},
            {"small", &small, 0},
            {"second", &second, 1},
            {"second_bias", &second_bias, 1},
            {"left", &left, 1},
            {"right", &right, 1},
            {"unused", &unused, 1}};
  }
};

// Of a unit's use: before and after its forward pass, before and after its backward pass.
struct Around {
  std::function<void(int unit)> begin = [](int) {}, end = [](int) {};
};

at::Tensor block(const Model& model, int unit, const at::Tensor& x, const Around& around) {
  around.begin(unit);
  const at::Tensor& weight = unit == 0 ? model.first : model.second;
  const at::Tensor& bias = unit == 0 ? model.first_bias : model.second_bias;
  x.register_hook([unit, around](const at::Tensor&) { around.end(unit); });
  const at::Tensor out = x + at::tanh(x.mm(weight) + bias);
  out.register_hook([unit, around](const at::Tensor&) { around.begin(unit); });
  around.end(unit);
  return out;
}

// The sum over samples [begin, end). `turned`: some gradients come in another order.
at::Tensor loss(const Model& model, int64_t begin, int64_t end, bool turned = false,
                const Around& around = {}) {
  const at::Tensor x = initial_noise({samples, width}, 9).narrow(0, begin, end - begin).requires_grad_();
  at::Tensor out = x;
  for (int unit : {0, 1, 0}) out = block(model, unit, out, around);
  around.begin(1);
  const auto part = [&](const at::Tensor& weight) {
    return (weight * initial_noise(weight.sizes(), 8)).sum() * double(end - begin);
  };
  const at::Tensor one = part(turned ? model.left : model.right);
  const at::Tensor other = part(turned ? model.right : model.left);
  around.end(1);
  around.begin(0);
  // Whole numbers, exact in bfloat16 whatever the order in which they are added.
  const at::Tensor exact = (model.small * at::arange(5, at::kBFloat16)).sum().to(at::kFloat);
  around.end(0);
  return (out * out).sum() + one + other + exact * double(end - begin);
}

at::Tensor flat(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& each : tensors) parts.push_back(each.detach().to(at::kDouble).reshape({-1}));
  return at::cat(parts);
}

std::vector<at::Tensor> tensors_of(Model& model) {
  std::vector<at::Tensor> tensors;
  for (const TrainedParameter& each : model.parameters()) tensors.push_back(*each.tensor);
  return tensors;
}

// What one rank does with plain tensors: after each step, all gradients and all weights.
struct Step {
  at::Tensor gradients, weights;
};
std::vector<Step> steps_of_one_rank(int count) {
  Model model;
  for (const at::Tensor& each : tensors_of(model)) each.requires_grad_(true);
  std::vector<Step> steps;
  for (int i = 0; i < count; ++i) {
    loss(model, 0, samples).backward();
    const c10::NoGradGuard no_grad;
    std::vector<at::Tensor> gradients;
    for (at::Tensor& each : tensors_of(model)) {
      gradients.push_back(each.grad().defined() ? each.grad() : at::zeros_like(each));
      each.sub_(gradients.back() * rate);
    }
    steps.push_back({flat(gradients), flat(tensors_of(model))});
    for (at::Tensor& each : tensors_of(model)) each.mutable_grad().reset();
  }
  return steps;
}

// The samples of each backward pass of a rank.
enum class Dealt { one_pass, pass_a_sample, unequal };
struct Pass {
  int64_t begin, end;
};
std::vector<Pass> passes_of(Dealt dealt, int rank, int ranks) {
  std::vector<Pass> passes;
  if (dealt == Dealt::unequal && ranks > 1) {  // the first rank has none
    if (rank == ranks - 1) passes = {{0, 2}, {2, 5}};
    if (rank == 1) passes.push_back({5, samples});
    return passes;
  }
  const Partition mine = Partition::even(samples, ranks);
  if (dealt != Dealt::pass_a_sample) return {{mine.begin(rank), mine.end(rank)}};
  for (int64_t i = mine.begin(rank); i < mine.end(rank); ++i) passes.push_back({i, i + 1});
  return passes;
}

// A rank's model, its groups, and what it does in a step.
struct Trained {
  Communicator& world;
  Model model{};
  CommPtr group = world.split(0, world.rank(), "gradients"), gather = world.split(0, world.rank(), "weights");
  std::unique_ptr<TrainedParameters> parameters{};

  Trained(Communicator& comm, SyncOptions options, size_t weights = 8) : world(comm) {
    auto all = model.parameters();
    all.resize(weights);
    parameters = std::make_unique<TrainedParameters>(all, *group, *gather, options);
  }

  Around around() {
    return {.begin =
                [this](int unit) {
                  parameters->gather(unit);
                  parameters->prefetch(1 - unit);
                },
            .end = [this](int unit) { parameters->release(unit); }};
  }
  // What a pass of another rank gathers, without computing anything.
  void idle_pass() {
    const Around each = around();
    for (int unit : {0, 1, 0, 1, 0}) each.begin(unit), each.end(unit);  // the forward pass
    each.begin(0), each.begin(1), each.end(0), each.begin(0), each.end(1), each.end(0);
  }

  void step(Dealt dealt) {
    parameters->begin_step();
    auto passes = passes_of(dealt, world.rank(), world.size());
    double weight = 1;
    if (parameters->zero() == 3) {  // all ranks gather alike, and have a last pass
      if (passes.empty()) passes = {{0, 1}}, weight = 0;
      size_t most = 0;
      for (int i = 0; i < world.size(); ++i) most = std::max(most, passes_of(dealt, i, world.size()).size());
      for (size_t i = passes.size(); i < most; ++i) idle_pass();
    }
    for (size_t i = 0; i < passes.size(); ++i) {
      if (i + 1 == passes.size()) parameters->sum_next_backward();
      (loss(model, passes[i].begin, passes[i].end, world.rank() % 2 == 1, around()) * weight).backward();
    }
    parameters->finish_gradients();
  }
  void update() {
    const c10::NoGradGuard no_grad;
    for (ParameterShard& shard : parameters->shards()) shard.parameter.sub_(shard.gradient * rate);
    parameters->publish();
  }
};

void check_part(const at::Tensor& got, const at::Tensor& wanted, double size, const std::string& what) {
  const double error = (got.detach().to(at::kDouble) - wanted).norm().item<double>() / size;
  check(got.numel() == wanted.numel() && error < 1e-6, fmt::format("{}: off by {:.3g}", what, error));
}

void check_steps(Communicator& comm, SyncOptions options, Dealt dealt, const std::vector<Step>& wanted) {
  Trained trained(comm, options);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const std::string where = fmt::format(" at step {} with ZeRO {}, buckets of {} bytes, dealt {}", i,
                                          options.zero, options.bucket_bytes, int(dealt));
    trained.step(dealt);
    int64_t elements = 0;
    for (const ParameterShard& shard : trained.parameters->shards()) {
      const int64_t count = shard.end - shard.begin;
      elements += count;
      check(shard.parameter.numel() == count && shard.parameter.scalar_type() == shard.gradient.scalar_type(),
            "a shard's tensors" + where);
      check_part(shard.gradient, wanted[i].gradients.narrow(0, shard.begin, count),
                 wanted[i].gradients.norm().item<double>(), "gradient" + where);
    }
    at::Tensor sum = at::full({1}, elements, at::kLong);
    comm.all_reduce(sum);
    const bool divided = options.zero > 0;
    check(sum.item<int64_t>() == trained.parameters->elements() * (divided ? 1 : comm.size()),
          "elements of all shards" + where);
    trained.update();
    const auto whole = trained.parameters->whole();
    check_part(flat(tensors_of(trained.model)), wanted[i].weights, wanted[i].weights.norm().item<double>(),
               "weights" + where);
  }
}

}  // namespace

TEST_CASE("n ranks train as one does: all stages, buckets and numbers of passes") {
  on_ranks({1, 2, 3, 4}, [](Communicator& comm) {
    const std::vector<Step> wanted = steps_of_one_rank(3);
    for (int zero : {0, 1, 2, 3}) {
      for (int64_t bucket_bytes : {1, 100, 1 << 20}) {
        for (Dealt dealt : {Dealt::one_pass, Dealt::pass_a_sample, Dealt::unequal}) {
          check_steps(comm, {.zero = zero, .bucket_bytes = bucket_bytes}, dealt, wanted);
        }
      }
    }
  });
}

TEST_CASE("sums begin while the last backward pass runs, and not before it") {
  on_ranks({1, 2, 3, 4}, [](Communicator& comm) {
    for (int zero : {0, 1, 2}) {
      Trained trained(comm, {.zero = zero, .bucket_bytes = 1}, /*weights=*/7);  // all of them used
      const auto calls = [&, before = trained.group->stats().calls] {
        return trained.group->stats().calls - before;
      };
      trained.parameters->begin_step();
      loss(trained.model, 0, 1).backward();
      check(calls() == 0, "no exchange after a pass that is not the last");
      check(!trained.model.first.grad().defined(), "gradients are in the buckets alone");
      trained.parameters->sum_next_backward();
      loss(trained.model, 1, 2).backward();
      const int64_t all = comm.size() > 1 ? 7 : 0;
      check(calls() == all, "a sum a bucket");
      trained.parameters->finish_gradients();
      check(calls() == all, "nothing is left to sum");
    }
  });
}

TEST_CASE("weights have memory while they are gathered") {
  on_ranks({2, 3}, [](Communicator& comm) {
    Trained trained(comm, {.zero = 3, .bucket_bytes = 1});
    TrainedParameters& parameters = *trained.parameters;
    const auto bytes = [&] { return trained.model.first.storage().nbytes(); };
    const at::Tensor view = trained.model.first.detach().view({-1}), wanted = Model().first.view({-1});
    check(bytes() == 0, "released at the start");
    parameters.prefetch(0);
    check(bytes() == 0, "gathered ahead, not whole yet");
    parameters.gather(0);
    parameters.gather(0);
    check(at::equal(view, wanted), "a view that was there before");
    parameters.release(0);
    check(at::equal(view, wanted), "nested");
    parameters.prefetch(1);
    for (ParameterShard& shard : parameters.shards()) shard.parameter.mul_(2);
    parameters.publish();
    check(at::equal(view, wanted * 2), "published while it is whole");
    parameters.gather(1);
    check(at::equal(trained.model.second.detach(), Model().second * 2), "not what was gathered before");
    parameters.release(0), parameters.release(1);
    check(bytes() == 0, "released");
    const auto whole = parameters.whole();
    check(at::equal(view, wanted * 2), "all whole");
    parameters.gather(7), parameters.release(7);  // a block without trained weights
    const auto often = caught([&] { parameters.release(0), parameters.release(0); });
    check(often.has("unit 0 of the weights is released more often than gathered"), often.message);
    parameters.gather(0);
  });
}

TEST_CASE("weights begin as the first rank has them, and keep their places") {
  on_ranks({1, 2, 3, 4}, [](Communicator& comm) {
    for (int zero : {0, 1, 3}) {
      Model model;
      model.second_bias.add_(comm.rank());
      model.small = model.small.to(at::kFloat);
      auto all = model.parameters();
      const CommPtr gather = comm.split(0, comm.rank(), "weights");
      TrainedParameters parameters(all, comm, *gather, {.zero = zero});
      const auto whole = parameters.whole();
      check(at::equal(model.second_bias.detach(), Model().second_bias), "values of the first rank");
      check(model.right.is_leaf() && model.right.requires_grad(), "a leaf that wants a gradient");
      check(model.first_bias.storage().is_alias_of(model.small.storage()), "one bucket a unit and type");
      check(!model.first_bias.storage().is_alias_of(model.second.storage()), "another unit's bucket");
      check(parameters.names().at(6) == "right" && parameters.shapes().at(6) == std::vector<int64_t>{1, 9},
            "names and shapes in the order that was given");
      check(parameters.units() == 2 && parameters.trained_bytes() == 4 * parameters.elements(), "sizes");
    }
  });
}

TEST_CASE("what cannot be summed is refused") {
  on_ranks({1, 2, 3}, [](Communicator& comm) {
    Trained trained(comm, {.zero = 1});
    trained.step(Dealt::one_pass);
    const auto late = caught([&] { loss(trained.model, 0, 1).backward(); });
    check(late.has("came when those of its bucket had been summed: begin_step() is missing"), late.message);
    const auto twice = caught([&] { trained.parameters->sum_next_backward(); });
    check(twice.has("begin_step() comes first"), twice.message);

    Model other;
    auto all = other.parameters();
    if (comm.rank() == comm.size() - 1) all[3].name = "third";
    const auto disagree =
        caught([&] { TrainedParameters(all, *trained.group, *trained.gather, SyncOptions{}); });
    check(disagree.code == (comm.size() > 1 ? ExitCode::disagree : ExitCode::ok), disagree.message);
    check(
        comm.size() == 1 || disagree.has(fmt::format("ranks 0 and {} train other weights", comm.size() - 1)),
        disagree.message);
  });
}
