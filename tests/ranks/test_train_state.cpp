// Training states: saved by some ranks, read by others; damaged, interrupted and foreign ones.
#include <exception>
#include <optional>

#include "models/training/train_state.h"
#include "parallel/comm/text.h"
#include "tests/support/failure.h"
#include "tests/support/rank_test.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using namespace frameshard::testing;
using frameshard::test::Failure;
using frameshard::test::failure_of;
using frameshard::test::Scratch;

namespace {

namespace fs = std::filesystem;

// A directory that all ranks see, removed at the end.
class SharedScratch {
 public:
  explicit SharedScratch(Communicator& world) : world_(world) {
    if (world.rank() == 0) scratch_.emplace();
    path_ = gather_texts(world, scratch_ ? scratch_->path().string() : "").front();
  }
  ~SharedScratch() {
    if (std::uncaught_exceptions() == 0) world_.barrier();
  }
  SharedScratch(const SharedScratch&) = delete;
  SharedScratch& operator=(const SharedScratch&) = delete;

  const fs::path& path() const { return path_; }
  /// What rank 0 alone does, before any rank goes on.
  void by_first(const std::function<void()>& action) const {
    if (world_.rank() == 0) action();
    world_.barrier();
  }

 private:
  Communicator& world_;
  std::optional<Scratch> scratch_;
  fs::path path_;
};

struct How {
  int zero = 0;
  WeightPrecision precision = WeightPrecision::plain;
  double ema = 0.5;
  std::vector<std::string> names{"a.weight", "a.bias", "b.weight"};
  std::vector<std::vector<int64_t>> shapes{{7, 5}, {11}, {2, 3, 4}};
};

// Some weights in training, in buckets of a few numbers.
class Training {
 public:
  Training(const How& how, Communicator& group, double first = 0)
      : gather_(group.split(0, group.rank(), "g")) {
    const auto dtype = how.precision == WeightPrecision::plain ? at::kFloat : at::kBFloat16;
    std::vector<TrainedParameter> list;
    tensors_.resize(how.names.size());
    for (size_t i = 0; i < how.names.size(); ++i) {
      tensors_[i] = (at::ones(how.shapes[i]) * (first + double(i) / 3)).to(dtype);
      list.push_back({.name = how.names[i], .tensor = &tensors_[i], .unit = int(i / 2)});
    }
    parameters.emplace(std::move(list), group, *gather_, SyncOptions{.zero = how.zero, .bucket_bytes = 64});
    optimizer.emplace(OptimizerConfig{}, how.precision, how.ema, 7);
  }

  void train(int steps) {
    for (int i = 0; i < steps; ++i) {
      parameters->begin_step();
      parameters->finish_gradients();
      for (ParameterShard& shard : parameters->shards()) {
        shard.gradient.copy_((at::arange(shard.begin, shard.end) * 0.3 + optimizer->steps()).sin());
      }
      optimizer->step(parameters->shards(), 1e-2, 1);
      parameters->publish();
    }
  }

  /// All elements of each kind of state, on every rank.
  std::map<std::string, at::Tensor> whole(Communicator& group) {
    auto all = optimizer->state(parameters->shards());
    for (const ParameterShard& shard : parameters->shards()) all["weights"].push_back(shard.parameter);
    std::map<std::string, at::Tensor> flat;
    for (const auto& [kind, list] : all) {
      at::Tensor& sum = flat[kind] = at::zeros({parameters->elements()}, at::kDouble);
      for (size_t i = 0; i < list.size(); ++i) {
        const ParameterShard& shard = parameters->shards()[i];
        if (parameters->zero() > 0 || group.rank() == 0)
          sum.narrow(0, shard.begin, shard.end - shard.begin).copy_(list[i].detach());
      }
      group.all_reduce(sum);
    }
    return flat;
  }
  /// The weights as the model has them.
  at::Tensor model_weights() {
    const auto guard = parameters->whole();
    std::vector<at::Tensor> flat;
    for (const at::Tensor& tensor : tensors_) flat.push_back(tensor.detach().flatten().to(at::kDouble));
    return at::cat(flat);
  }

 private:
  CommPtr gather_;
  std::vector<at::Tensor> tensors_;

 public:
  std::optional<TrainedParameters> parameters;
  std::optional<Optimizer> optimizer;
};

fs::path save(Training& training, const fs::path& directory, Communicator& world, int64_t step = 3) {
  const TrainPosition position{
      .step = step, .samples = 12, .config_hash = "abc", .more = {{"seconds", "1.5"}}};
  return save_train_state(directory, position, *training.parameters, *training.optimizer, world);
}
TrainPosition load(Training& training, const fs::path& folder, Communicator& world) {
  return load_train_state(folder, *training.parameters, *training.optimizer, world);
}

void check_same(const std::map<std::string, at::Tensor>& got, const std::map<std::string, at::Tensor>& wanted,
                const std::string& what) {
  check(got.size() == wanted.size(), what + ": kinds of state");
  for (const auto& [kind, tensor] : wanted) check(at::equal(got.at(kind), tensor), what + ": " + kind);
}

void check_failure(const Failure& got, ExitCode code, const std::string& part) {
  check(got.code == code && got.message.find(part) != std::string::npos,
        fmt::format("{} and not {}: {} (wanted: {})", int(got.code), int(code), got.message, part));
}

void cut(const fs::path& file, int64_t by) {
  fs::resize_file(file, fs::file_size(file) - uintmax_t(by));
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_CASE("a state is read by other numbers of ranks and other ZeRO stages") {
  on_ranks({1, 2, 3}, [](Communicator& world) {
    const CommPtr some = world.split(world.rank() < 2 ? 0 : 1, world.rank(), "some");
    for (int saved = 0; saved < 4; ++saved) {
      const SharedScratch scratch(world);
      Training from({.zero = saved}, world);
      from.train(3);
      const auto wanted = from.whole(world);
      const fs::path folder = save(from, scratch.path(), world);
      check(folder == scratch.path() / "step-00000003" && newest_train_state(scratch.path()) == folder,
            "name");
      for (int loaded = 0; loaded < 4; ++loaded) {
        for (Communicator* group : {&world, some.get()}) {
          Training to({.zero = loaded}, *group, 100);
          const TrainPosition position = load(to, folder, *group);
          const std::string what = fmt::format("zero {} of {} ranks, read as {} by {}", saved, world.size(),
                                               loaded, group->size());
          check_same(to.whole(*group), wanted, what);
          check(at::equal(to.model_weights(), wanted.at("weights")), what + ": published weights");
          check(to.optimizer->steps() == 3 && position.step == 3 && position.samples == 12 &&
                    position.config_hash == "abc" && position.more.at("seconds") == "1.5",
                what + ": position");
        }
      }
    }
  });
}

TEST_CASE("training goes on from a state with the same bits") {
  on_ranks({1, 2, 3}, [](Communicator& world) {
    for (const auto precision :
         {WeightPrecision::plain, WeightPrecision::master, WeightPrecision::stochastic}) {
      for (int zero = 0; zero < 4; ++zero) {
        const SharedScratch scratch(world);
        const How how{.zero = zero, .precision = precision};
        Training unbroken(how, world), resumed(how, world, 100);
        unbroken.train(2);
        load(resumed, save(unbroken, scratch.path(), world), world);
        unbroken.train(2), resumed.train(2);
        check_same(resumed.whole(world), unbroken.whole(world),
                   fmt::format("precision {}, zero {}", int(precision), zero));
      }
    }
  });
}

TEST_CASE("states of other weights and precisions are refused by name") {
  on_ranks({1, 2, 3}, [](Communicator& world) {
    const SharedScratch scratch(world);
    Training from({.zero = 1}, world);
    const fs::path folder = save(from, scratch.path(), world);
    const auto refused = [&](const How& how, const std::string& part) {
      Training to(how, world);
      check_failure(failure_of([&] { load(to, folder, world); }), ExitCode::bad_data, part);
    };
    refused({.names = {"a.weight", "c.bias", "b.weight"}}, "weight 2 of 3 is \"a.bias\" [11]");
    refused({.shapes = {{7, 5}, {11}, {2, 12}}}, "this run trains 3 and this one is \"b.weight\" [2, 12]");
    refused({.names = {"a.weight", "a.bias"}, .shapes = {{7, 5}, {11}}}, "this one is none");
    refused({.precision = WeightPrecision::master}, "without float32 master weights");
    refused({.precision = WeightPrecision::stochastic}, "is F32, this run has BF16; set train.precision");
  });
}

TEST_CASE("an average of the weights that was not saved begins from them") {
  on_ranks({1, 2}, [](Communicator& world) {
    const SharedScratch scratch(world);
    Training from({.zero = 1, .ema = 0}, world), to({.zero = 2, .ema = 0.5}, world, 100),
        back({.ema = 0}, world);
    from.train(2);
    load(to, save(from, scratch.path(), world, 1), world);
    check(at::equal(to.whole(world).at("ema"), from.whole(world).at("weights")), "ema");
    load(back, save(to, scratch.path(), world, 2), world);
    check_same(back.whole(world), from.whole(world), "without ema");
  });
}

TEST_CASE("a state that was cut off is refused, and an earlier one is found") {
  on_ranks({1, 2, 3}, [](Communicator& world) {
    const SharedScratch scratch(world);
    Training training({.zero = 1}, world);
    const fs::path good = save(training, scratch.path(), world, 4);
    const fs::path last = fmt::format("rank-{:05}.safetensors", world.size() - 1);
    const auto refused = [&](int64_t step, ExitCode code, const std::string& part,
                             const std::function<void(const fs::path&)>& damage) {
      const fs::path folder = save(training, scratch.path(), world, step);
      scratch.by_first([&] {
        check(newest_train_state(scratch.path()) == folder, "newest");
        damage(folder);
        check(newest_train_state(scratch.path()) == good, "an earlier one");
        fs::rename(folder, scratch.path() / "damaged");  // out of the way of the next one
      });
      check_failure(failure_of([&] { load(training, scratch.path() / "damaged", world); }), code, part);
      world.barrier();
      scratch.by_first([&] { fs::remove_all(scratch.path() / "damaged"); });
    };
    refused(5, ExitCode::bad_data, "truncated", [&](auto& folder) { cut(folder / last, 2); });
    refused(6, ExitCode::missing_file, last, [&](auto& folder) { fs::remove(folder / last); });
    refused(7, ExitCode::bad_data, "not valid JSON", [](auto& folder) { cut(folder / "state.json", 9); });
    refused(8, ExitCode::missing_file, "saving was interrupted",
            [](auto& folder) { fs::remove(folder / "state.json"); });
  });
}

TEST_CASE("of interrupted savings nothing is taken for a state, and nothing stays") {
  on_ranks({1, 2}, [](Communicator& world) {
    const SharedScratch scratch(world);
    Training training({}, world);
    for (int64_t step : {1, 20, 3, 100'000'000}) save(training, scratch.path(), world, step);
    scratch.by_first([&] {
      fs::copy(scratch.path() / "step-00000003", scratch.path() / ".step-200000000.tmp");
      fs::create_directory(scratch.path() / "step-300000000");
      test::put(scratch.path() / "metrics.jsonl", "");
      check(newest_train_state(scratch.path()).filename() == "step-100000000", "newest");
      prune_train_states(scratch.path(), 2);
    });
    check(names_in(scratch.path()) ==
              std::vector<std::string>{"metrics.jsonl", "step-00000020", "step-100000000"},
          fmt::format("left: {}", fmt::join(names_in(scratch.path()), " ")));
    check(newest_train_state(scratch.path() / "none").empty(), "no directory, no state");
  });
}

TEST_CASE("where one rank cannot write, all fail and the earlier state stays") {
  on_ranks({2, 3}, [](Communicator& world) {
    const SharedScratch scratch(world);
    Training training({.zero = 1}, world);
    const auto before = training.whole(world);
    const fs::path folder = save(training, scratch.path(), world);
    training.train(1);
    const bool is_last = world.rank() == world.size() - 1;
    const auto failed = [&](const fs::path& elsewhere, const std::string& part) {
      const fs::path directory = is_last ? elsewhere : scratch.path();
      check_failure(failure_of([&] { save(training, directory, world); }), ExitCode::io, part);
      world.barrier();
      check(names_in(scratch.path()) == std::vector<std::string>{"step-00000003"}, "nothing is left");
      world.barrier();
    };
    failed(scratch.path() / "missing", "cannot create");
    const Scratch own;  // a disk of its own
    fs::create_directory(own / ".step-00000003.tmp");
    failed(own.path(), "to one that all hosts share");
    load(training, folder, world);
    check_same(training.whole(world), before, "the earlier state");
    training.train(1);
    save(training, scratch.path(), world);  // takes its place
    load(training, folder, world);
    check(!at::equal(training.whole(world).at("weights"), before.at("weights")), "the new state");
  });
}
