#include <filesystem>

#include <unistd.h>

#include "models/weights.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"

using namespace frameshard;
using frameshard::test::caught;
using Shape = std::vector<int64_t>;

namespace {

namespace fs = std::filesystem;

// A file with these tensors, removed at the end.
class File {
 public:
  explicit File(const NamedTensors& tensors) {
    fs::create_directories(folder_);
    write_safetensors(folder_ / "model.safetensors", tensors);
  }
  ~File() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  WeightFiles open() const { return WeightFiles::open(folder_ / "model.safetensors"); }

 private:
  fs::path folder_ = fs::temp_directory_path() / ("frameshard_weights_" + std::to_string(::getpid()));
};

at::Tensor numbers(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return (at::arange(c10::multiply_integers(shape), at::kFloat) / 8).view(shape).to(dtype);
}

struct Model {
  Linear layer, time;
  at::Tensor norm, table;
  WeightList list;

  Model() {
    list.add_layer("layer", {4, 3}, layer);
    list.add_layer("time", {2, 2}, time, /*keep_float32=*/true);
    list.add("norm.weight", {4}, norm);
    list.add_alias("old.norm");
    list.add_float32("table", {1, 6, 2}, table);
    list.ignore_suffix("unused.weight");
  }
};

NamedTensors tensors_of_model() {
  return {{"layer.weight", numbers({4, 3})}, {"layer.bias", numbers({4})},  {"time.weight", numbers({2, 2})},
          {"time.bias", numbers({2})},       {"norm.weight", numbers({4})}, {"table", numbers({1, 6, 2})}};
}

frameshard::test::Caught check_result(const NamedTensors& tensors) {
  const File file(tensors);
  return caught([&] { check_weights(Model().list, file.open(), "TestModel"); });
}

NamedTensors without(const std::string& name) {
  NamedTensors tensors = tensors_of_model();
  std::erase_if(tensors, [&](const auto& tensor) { return tensor.first == name; });
  return tensors;
}

}  // namespace

TEST_CASE("a list names its weights in order, with their shapes") {
  const Model model;
  std::vector<std::string> names;
  for (const WeightSlot& slot : model.list.slots()) names.push_back(slot.name);
  CHECK(names == std::vector<std::string>{"layer.weight", "layer.bias", "time.weight", "time.bias",
                                          "norm.weight", "table"});
  CHECK(model.list.slots()[0].shape == Shape{4, 3});
  CHECK(model.list.slots()[1].shape == Shape{4});
  CHECK_FALSE(model.list.slots()[1].keep_float32);
  CHECK(model.list.slots()[3].keep_float32);
  CHECK(model.list.slots()[4].aliases == std::vector<std::string>{"old.norm"});
}

TEST_CASE("a convolution's bias has its output channels") {
  Linear convolution;
  WeightList list;
  list.add_layer("conv", {5, 4, 3, 3, 3}, convolution);
  CHECK(list.slots()[0].shape == Shape{5, 4, 3, 3, 3});
  CHECK(list.slots()[1].shape == Shape{5});
  CHECK(list.bytes(at::kFloat) == (5 * 4 * 27 + 5) * 4);
}

TEST_CASE("bytes count what stays float32") {
  const Model model;
  CHECK(model.list.bytes(at::kFloat) == (12 + 4 + 4 + 2 + 4 + 12) * 4);
  CHECK(model.list.bytes(at::kBFloat16) == (12 + 4 + 4) * 2 + (4 + 2 + 12) * 4);
}

TEST_CASE("weights that fit") {
  CHECK(check_result(tensors_of_model()).code == ExitCode::ok);
  NamedTensors half = tensors_of_model();
  for (auto& [name, tensor] : half) tensor = tensor.to(at::kHalf);  // whatever a file stores
  CHECK(check_result(half).code == ExitCode::ok);
}

TEST_CASE("a missing weight") {
  const auto error = check_result(without("layer.bias"));
  CHECK(error.code == ExitCode::bad_data);
  CHECK(error.has("do not fit the TestModel that config.json describes"));
  CHECK(error.has("\n  missing: layer.bias [4]"));
}

TEST_CASE("a weight too many") {
  NamedTensors tensors = tensors_of_model();
  tensors.emplace_back("extra", numbers({2, 1}));
  const auto error = check_result(tensors);
  CHECK(error.code == ExitCode::bad_data);
  CHECK(error.has("\n  not part of this model: extra [2, 1]"));
}

TEST_CASE("a weight of another shape") {
  NamedTensors tensors = without("layer.weight");
  tensors.emplace_back("layer.weight", numbers({3, 4}));
  const auto error = check_result(tensors);
  CHECK(error.code == ExitCode::bad_data);
  CHECK(error.has("\n  wrong shape: layer.weight: got [3, 4], wanted [4, 3]"));
  CHECK_FALSE(error.has("missing"));
}

TEST_CASE("an alias stands for its weight") {
  NamedTensors tensors = without("norm.weight");
  tensors.emplace_back("old.norm", numbers({4}));
  CHECK(check_result(tensors).code == ExitCode::ok);
  tensors.back().second = numbers({5});
  CHECK(check_result(tensors).has("wrong shape: norm.weight: got [5], wanted [4]"));
  tensors = tensors_of_model();
  tensors.emplace_back("old.norm", numbers({4}));  // both names of a tied tensor
  CHECK(check_result(tensors).code == ExitCode::ok);
}

TEST_CASE("names with an ignored suffix are no error") {
  NamedTensors tensors = tensors_of_model();
  tensors.emplace_back("blocks.0.unused.weight", numbers({9}));
  CHECK(check_result(tensors).code == ExitCode::ok);
  tensors.back().first = "blocks.0.unused.weight.more";
  CHECK(check_result(tensors).code == ExitCode::bad_data);
}

TEST_CASE("at most 10 names are listed") {
  for (const auto& [count, rest] : {std::pair(10, 0), std::pair(11, 1), std::pair(25, 15)}) {
    NamedTensors tensors = tensors_of_model();
    for (int i = 0; i < count; ++i) tensors.emplace_back("extra" + std::to_string(100 + i), numbers({1}));
    const auto error = check_result(tensors);
    CHECK(std::count(error.message.begin(), error.message.end(), '\n') == 10 + (rest > 0));
    CHECK(error.has("... and " + std::to_string(rest) + " more") == (rest > 0));
    CHECK(error.has("extra109"));
    CHECK_FALSE(error.has("extra110"));
  }
}

TEST_CASE("weights are loaded in the model's dtype, some in float32") {
  NamedTensors tensors = tensors_of_model();
  for (auto& [name, tensor] : tensors) tensor = tensor.to(at::kHalf);
  const File file(tensors);
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    Model model;
    load_weights(model.list, file.open(), {dtype});
    CHECK(model.layer.weight.scalar_type() == dtype);
    CHECK(model.norm.scalar_type() == dtype);
    CHECK(model.time.weight.scalar_type() == at::kFloat);
    CHECK(model.time.bias.scalar_type() == at::kFloat);
    CHECK(model.table.scalar_type() == at::kFloat);
    CHECK(at::equal(model.layer.weight, numbers({4, 3}, dtype)));
    CHECK(at::equal(model.layer.bias, numbers({4}, dtype)));
    CHECK(at::equal(model.table, numbers({1, 6, 2})));
  }
}

TEST_CASE("an alias is loaded under its weight's name") {
  NamedTensors tensors = without("norm.weight");
  tensors.emplace_back("old.norm", numbers({4}) + 3);
  const File file(tensors);
  Model model;
  load_weights(model.list, file.open(), {});
  CHECK(at::equal(model.norm, numbers({4}) + 3));
}

TEST_CASE("layers that are stacked lie in one tensor") {
  Linear q, k, both;
  WeightList list;
  list.add_layer("q", {4, 3}, q);
  list.add_layer("k", {2, 3}, k);
  list.stack({&q, &k}, both);
  const File file({{"q.weight", numbers({4, 3})},
                   {"q.bias", numbers({4})},
                   {"k.weight", -numbers({2, 3})},
                   {"k.bias", -numbers({2})}});
  load_weights(list, file.open(), {});
  CHECK(at::equal(both.weight, at::cat({numbers({4, 3}), -numbers({2, 3})})));
  CHECK(at::equal(both.bias, at::cat({numbers({4}), -numbers({2})})));
  CHECK(k.weight.is_alias_of(both.weight));
  CHECK(at::equal(k.weight, -numbers({2, 3})));
}
