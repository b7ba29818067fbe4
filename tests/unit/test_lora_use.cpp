// What low-rank changes do to a model: merged or beside its weights, and new ones.
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"
#include "tests/support/small_lora.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::changes_of_all;
using frameshard::test::Model;
using frameshard::testing::relative_error;

namespace {
const at::Device cpu(at::kCPU);
}

TEST_CASE("merged changes and those computed beside the weights give the same") {
  const Model plain;
  const at::Tensor before = plain.predict();
  const auto changes = changes_of_all(plain.weights(), 100);
  Model beside, merged;
  use_lora(changes, beside.weights(), {.scale = 0.7, .merge = false});
  use_lora(changes, merged.weights(), {.scale = 0.7, .merge = true});
  const at::Tensor wanted = merged.predict();
  CHECK(relative_error(beside.predict(), wanted) < 1e-6);
  CHECK(relative_error(before, wanted) > 1e-2);
  for (size_t i = 0; i < plain.weights().slots().size(); ++i) {
    const WeightSlot &slot = plain.weights().slots()[i], &other = beside.weights().slots()[i];
    CHECK(at::equal(*slot.target, *other.target));
  }
  beside.dit.move_to(cpu);
  CHECK(relative_error(beside.predict(), wanted) < 1e-6);
}

TEST_CASE("each change alone, merged or beside, changes what the model predicts") {
  const at::Tensor before = Model().predict();
  const auto all = changes_of_all(Model().weights(), 100, 2);
  for (const LoraLayer& change : all) {
    INFO(change.layer);
    const Model beside, merged;
    use_lora({change}, beside.weights(), {});
    use_lora({change}, merged.weights(), {.merge = true});
    CHECK(relative_error(beside.predict(), merged.predict()) < 1e-6);
    CHECK(relative_error(before, merged.predict()) > 1e-5);
  }
}

TEST_CASE("several files add up, and differences are merged always") {
  const Model beside, mixed, twice;
  const auto first = changes_of_all(beside.weights(), 100), second = changes_of_all(beside.weights(), 200);
  use_lora(first, beside.weights(), {});
  use_lora(second, beside.weights(), {.scale = -1.5});
  use_lora(first, mixed.weights(), {.merge = true});
  use_lora(second, mixed.weights(), {.scale = -1.5});
  CHECK(relative_error(beside.predict(), mixed.predict()) < 1e-6);

  const LoraLayer norm{.layer = "blocks.1.norm2",
                       .weight_difference = initial_noise({12}, 1),
                       .bias_difference = initial_noise({12}, 2)};
  const Model plain;
  use_lora({norm}, twice.weights(), {.scale = 2});
  auto slot = [](const Model& model, const std::string& name) {
    for (const WeightSlot& each : model.weights().slots()) {
      if (each.name == name) return *each.target;
    }
    return at::Tensor();
  };
  CHECK(at::allclose(slot(twice, "blocks.1.norm2.weight"),
                     slot(plain, "blocks.1.norm2.weight") + 2 * norm.weight_difference));
  CHECK(at::allclose(slot(twice, "blocks.1.norm2.bias"),
                     slot(plain, "blocks.1.norm2.bias") + 2 * norm.bias_difference));
}

TEST_CASE("merging into bfloat16 rounds once") {
  Model model;
  wan::Dit& dit = model.dit;
  randomize_weights(dit.weights(), at::kBFloat16, cpu, 3);
  const LayerSlot& slot = dit.weights().layers()[7];
  const at::Tensor before = slot.layer->weight.to(at::kFloat);
  const LoraLayer change{.layer = slot.name,
                         .a = initial_noise({2, slot.weight_shape[1]}, 1),
                         .b = initial_noise({slot.weight_shape[0], 2}, 2),
                         .scale = 0.01};
  use_lora({change}, dit.weights(), {.merge = true});
  CHECK(slot.layer->weight.scalar_type() == at::kBFloat16);
  CHECK(at::equal(slot.layer->weight, before.add(change.b.mm(change.a), 0.01).to(at::kBFloat16)));
}

TEST_CASE("targets of low-rank changes") {
  const Model model;
  auto names = [&](const std::vector<std::string>& targets) {
    std::vector<std::string> found;
    for (const LayerSlot& slot : lora_targets(model.weights(), targets)) found.push_back(slot.name);
    return found;
  };
  CHECK(names({}).size() == 16);
  CHECK(names({}) == names({"to_out.0", "to_q", "to_v", "to_k"}));
  CHECK(names({"attn2.to_q"}) == std::vector<std::string>{"blocks.0.attn2.to_q", "blocks.1.attn2.to_q"});
  CHECK(names({"blocks.1.*.to_q", "proj_out"}) ==
        std::vector<std::string>{"blocks.1.attn1.to_q", "blocks.1.attn2.to_q", "proj_out"});
  CHECK(names({"*"}).size() == model.weights().layers().size() - 1);  // all but the kernel
  for (const char* none : {"q", "to_o", "patch_embedding", "blocks.*.attn3.*", "ffn", ""}) {
    const auto error = caught([&] { names({"to_q", none}); });
    INFO(none << ": " << error.message);
    CHECK(error.code == ExitCode::config);
    CHECK(
        error.has(fmt::format("\"{}\" matches no layer that can have a low-rank change; there are ", none)));
    CHECK(error.has("blocks.*.attn1.to_out.0, "));
  }
}

TEST_CASE("new changes leave the model as it is, and come from the seed alone") {
  const Model model;
  const auto targets = lora_targets(model.weights(), {"ffn.net.2", "to_q"});
  const auto first = new_lora(targets, 4, 8, 17), again = new_lora(targets, 4, 8, 17),
             other = new_lora(targets, 4, 8, 18);
  REQUIRE(first.size() == targets.size());
  for (size_t i = 0; i < first.size(); ++i) {
    const double bound = 1 / std::sqrt(double(targets[i].weight_shape[1]));
    CHECK(first[i].layer == targets[i].name);
    CHECK(first[i].scale == 2);
    CHECK(first[i].a.sizes() == at::IntArrayRef({4, targets[i].weight_shape[1]}));
    CHECK(first[i].b.sizes() == at::IntArrayRef({targets[i].weight_shape[0], 4}));
    CHECK(first[i].b.abs().max().item<double>() == 0);
    CHECK(first[i].a.abs().max().item<double>() <= bound);
    CHECK(first[i].a.abs().max().item<double>() > 0.8 * bound);
    CHECK(at::equal(first[i].a, again[i].a));
    CHECK_FALSE(at::equal(first[i].a, other[i].a));
  }
  CHECK_FALSE(at::equal(first[0].a, first[1].a));
  const Model trained;
  use_lora(first, trained.weights(), {});
  CHECK(at::equal(trained.predict(), model.predict()));
}
