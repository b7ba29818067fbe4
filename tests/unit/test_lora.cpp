// Low-rank changes: their files in three forms, what is refused, and what they do to a model.
#include <c10/core/GradMode.h>

#include "core/io/safetensors.h"
#include "core/rng.h"
#include "models/lora.h"
#include "models/wan/dit.h"
#include "parallel/comm/self.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::Scratch;
using frameshard::testing::relative_error;

namespace {

const at::Device cpu(at::kCPU);

struct Model {
  Model() {
    randomize_weights(dit.weights(), at::kFloat, cpu, 3);
    // Large enough that attention is far from even, and each layer shows in what is predicted.
    for (const WeightSlot& slot : dit.weights().slots()) {
      if (slot.name.find("norm") == std::string::npos) slot.target->mul_(10);
    }
  }

  at::Tensor predict() const {
    const c10::NoGradGuard no_grad;
    const CommPtr alone = make_self_communicator();
    const AttentionPtr attention = make_local_attention();
    const ParallelSequence sequence(*alone, *attention, Partition::even(8, 1));
    return dit.predict(initial_noise({1, 4, 2, 4, 4}, 5), at::full({1}, 423.0),
                       dit.prepare(initial_noise({1, 6, 10}, 6)), sequence);
  }
  const WeightList& weights() const { return dit.weights(); }

  wan::Dit dit{{.heads = 2,
                .head_dim = 6,
                .layers = 2,
                .ffn_dim = 20,
                .in_channels = 4,
                .out_channels = 4,
                .text_dim = 10,
                .freq_dim = 8,
                .patch = {1, 2, 2},
                .cross_attention_norm = true,
                .eps = 1e-6,
                .max_positions = 64},
               at::kFloat};
};

// A change of every layer, of ranks 1 to 3.
std::vector<LoraLayer> changes_of_all(const WeightList& list, uint64_t seed, double scale = 0.5) {
  std::vector<LoraLayer> changes;
  for (const LayerSlot& slot : list.layers()) {
    const int64_t rank = 1 + int64_t(changes.size()) % 3;
    std::vector<int64_t> down = slot.weight_shape, up(down.size(), 1);
    up[0] = std::exchange(down[0], rank);
    up[1] = rank;
    changes.push_back({.layer = slot.name,
                       .a = initial_noise(down, seed++) * 0.3,
                       .b = initial_noise(up, seed++) * 0.3,
                       .scale = scale});
  }
  return changes;
}

at::Tensor product(const LoraLayer& layer) {
  return layer.b.flatten(1).mm(layer.a.flatten(1)) * layer.scale;
}

std::vector<LoraLayer> read(const Scratch& folder, const NamedTensors& tensors,
                            const std::map<std::string, std::string>& metadata = {}) {
  write_safetensors(folder / "given.safetensors", tensors, metadata);
  return read_lora(folder / "given.safetensors", Model().weights());
}

at::Tensor a_for(int64_t rank = 2) {
  return initial_noise({rank, 12}, 1);
}
at::Tensor b_for(int64_t rank = 2) {
  return initial_noise({12, rank}, 2);
}

// A whole pair under this name.
NamedTensors pair(const std::string& name, const std::string& down = ".lora_A.weight",
                  const std::string& up = ".lora_B.weight") {
  return {{name + down, a_for()}, {name + up, b_for()}};
}

}  // namespace

TEST_CASE("changes are read in the form that they were written in") {
  const Scratch folder;
  const Model model;
  const auto changes = changes_of_all(model.weights(), 100);
  const std::map<LoraForm, std::vector<std::string>> names{
      {LoraForm::diffusers,
       {"transformer.blocks.1.attn1.to_q.lora_A.weight", "transformer.blocks.0.ffn.net.0.proj.lora_B.weight",
        "transformer.condition_embedder.time_proj.lora_A.weight", "transformer.proj_out.lora_B.weight"}},
      {LoraForm::comfyui,
       {"diffusion_model.blocks.1.self_attn.q.lora_down.weight",
        "diffusion_model.blocks.1.cross_attn.o.alpha", "diffusion_model.blocks.0.ffn.0.lora_up.weight",
        "diffusion_model.time_projection.1.lora_up.weight", "diffusion_model.text_embedding.2.alpha",
        "diffusion_model.head.head.lora_down.weight"}},
      {LoraForm::kohya,
       {"lora_unet_blocks_1_self_attn_q.lora_down.weight", "lora_unet_blocks_0_cross_attn_o.lora_up.weight",
        "lora_unet_blocks_0_ffn_2.alpha", "lora_unet_time_embedding_0.alpha",
        "lora_unet_patch_embedding.lora_up.weight"}},
  };
  for (const auto& [form, expected] : names) {
    write_lora(folder / "lora.safetensors", changes, form, {{"steps", "20"}});
    const WeightFiles file = WeightFiles::open(folder / "lora.safetensors");
    for (const std::string& name : expected) {
      INFO(name);
      CHECK(file.find(name) != nullptr);
    }
    CHECK(read_safetensors_metadata(folder / "lora.safetensors") ==
          std::map<std::string, std::string>{{"format", "pt"}, {"steps", "20"}});
    const auto got = read_lora(folder / "lora.safetensors", model.weights());
    REQUIRE(got.size() == changes.size());
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].layer == changes[i].layer);  // in the list's order
      CHECK(at::equal(got[i].a, changes[i].a));
      CHECK(relative_error(product(got[i]), product(changes[i])) < 1e-6);
      CHECK(got[i].scale == Approx(form == LoraForm::diffusers ? 1 : changes[i].scale));
    }
  }
}

TEST_CASE("differences of whole weights are read and written") {
  const Scratch folder;
  const Model model;
  const LoraLayer change{.layer = "blocks.0.norm2",
                         .weight_difference = initial_noise({12}, 1),
                         .bias_difference = initial_noise({12}, 2)};
  const LoraLayer layer{.layer = "blocks.0.ffn.net.2", .weight_difference = initial_noise({12, 20}, 3)};
  for (const LoraForm form : {LoraForm::comfyui, LoraForm::kohya}) {
    write_lora(folder / "lora.safetensors", {change, layer}, form);
    const auto got = read_lora(folder / "lora.safetensors", model.weights());
    REQUIRE(got.size() == 2);
    CHECK(got[0].layer == "blocks.0.norm2");
    CHECK_FALSE(got[0].a.defined());
    CHECK(at::equal(got[0].weight_difference, change.weight_difference));
    CHECK(at::equal(got[0].bias_difference, change.bias_difference));
    CHECK(at::equal(got[1].weight_difference, layer.weight_difference));
    CHECK_FALSE(got[1].bias_difference.defined());
  }
  const auto error = caught([&] { write_lora(folder / "no.safetensors", {change}, LoraForm::diffusers); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has("blocks.0.norm2 cannot be said in diffusers' form; write it in ComfyUI's"));
  CHECK_FALSE(std::filesystem::exists(folder / "no.safetensors"));
}

TEST_CASE("Wan's own norm3 is diffusers' norm2") {
  const Scratch folder;
  const at::Tensor difference = initial_noise({12}, 1);
  CHECK(read(folder, {{"diffusion_model.blocks.1.norm3.diff", difference}}).at(0).layer == "blocks.1.norm2");
  CHECK(read(folder, {{"transformer.blocks.1.norm2.diff", difference}}).at(0).layer == "blocks.1.norm2");
  CHECK(read(folder, {{"lora_unet_blocks_1_norm3.diff_b", difference}}).at(0).bias_difference.defined());
  for (const char* name : {"diffusion_model.blocks.1.norm2.diff", "transformer.blocks.1.norm3.diff"}) {
    CHECK(caught([&] { read(folder, {{name, difference}}); }).code == ExitCode::bad_data);
  }
  CHECK(read(folder, {{"diffusion_model.blocks.1.self_attn.norm_q.diff", difference}}).at(0).layer ==
        "blocks.1.attn1.norm_q");
  CHECK(read(folder, {{"diffusion_model.head.modulation.diff", initial_noise({1, 2, 12}, 1)}}).at(0).layer ==
        "scale_shift_table");
}

TEST_CASE("names that others write for the same layer") {
  const Scratch folder;
  const std::vector<NamedTensors> files{
      pair("transformer.blocks.0.attn2.to_out.0"),
      pair("blocks.0.attn2.to_out.0"),
      pair("blocks.0.cross_attn.o"),
      pair("transformer.blocks.0.attn2.to_out.0", ".lora_A.default.weight", ".lora_B.default.weight"),
      pair("transformer.blocks.0.attn2.to_out.0", ".lora.down.weight", ".lora.up.weight"),
      pair("diffusion_model.blocks.0.cross_attn.o"),
      pair("diffusion_model.blocks.0.cross_attn.o", ".lora_down.weight", ".lora_up.weight"),
      pair("diffusion_model.blocks.0.attn2.to_out.0"),
      pair("lora_unet_blocks_0_cross_attn_o", ".lora_down.weight", ".lora_up.weight"),
      pair("lora_unet_blocks_0_attn2_to_out_0", ".lora_down.weight", ".lora_up.weight"),
  };
  for (const NamedTensors& tensors : files) {
    const auto got = read(folder, tensors);
    INFO(tensors[0].first);
    REQUIRE(got.size() == 1);
    CHECK(got[0].layer == "blocks.0.attn2.to_out.0");
    CHECK(got[0].scale == 1);
    CHECK(relative_error(product(got[0]), b_for().mm(a_for())) < 1e-6);
  }
  NamedTensors half = pair("blocks.0.attn1.to_q");
  for (auto& [name, tensor] : half) tensor = tensor.to(at::kHalf);
  half.emplace_back("blocks.0.attn1.to_q.alpha", at::full({1}, 3, at::kLong));
  const auto got = read(folder, half);
  CHECK(got.at(0).a.scalar_type() == at::kFloat);
  CHECK(got.at(0).scale == 1.5);
}

TEST_CASE("alpha may be in PEFT's settings") {
  const Scratch folder;
  NamedTensors tensors = pair("transformer.blocks.0.attn1.to_q");
  for (auto& each : pair("transformer.blocks.1.attn1.to_q")) tensors.push_back(each);
  const auto got =
      read(folder, tensors,
           {{"lora_adapter_metadata",
             R"({"transformer.lora_alpha": 6, "transformer.r": 2, "transformer.use_rslora": false,
                              "transformer.alpha_pattern": {"blocks.1.attn1.to_q": 1}})"}});
  CHECK(got.at(0).scale == 3);
  CHECK(got.at(1).scale == 0.5);
  const auto by_root =
      read(folder, tensors, {{"lora_adapter_metadata", R"({"lora_alpha": 6, "use_rslora": true})"}});
  CHECK(by_root.at(0).scale == Approx(6 / std::sqrt(2.0)));
  const auto error = caught([&] { read(folder, tensors, {{"lora_adapter_metadata", "{"}}); });
  CHECK(error.code == ExitCode::bad_data);
  CHECK(error.has("corrupt metadata lora_adapter_metadata"));
}

TEST_CASE("files of low-rank changes that cannot be used are refused") {
  const Scratch folder;
  const Model model;
  auto refused = [&](const NamedTensors& tensors, const std::string& message) {
    const auto error = caught([&] { read(folder, tensors); });
    INFO(error.message);
    CHECK(error.code == ExitCode::bad_data);
    CHECK(error.has("given.safetensors: "));
    CHECK(error.has(message));
  };
  const NamedTensors good = pair("transformer.blocks.0.attn1.to_q");
  auto with = [&](const std::string& name, const at::Tensor& tensor) {
    NamedTensors tensors = good;
    tensors.emplace_back(name, tensor);
    return tensors;
  };
  const std::string query = "transformer.blocks.0.attn1.to_q";

  const auto missing = caught([&] { read_lora(folder / "none.safetensors", model.weights()); });
  CHECK(missing.code == ExitCode::missing_file);
  CHECK(missing.has("none.safetensors: no such file"));
  refused(pair("transformer.blocks.5.attn1.to_q"),
          "none of its 2 tensors changes a layer of this model, the first: "
          "transformer.blocks.5.attn1.to_q.lora_A.weight [2, 12]; is it a LoRA, and one for this model?");
  refused(pair("text_encoder.encoder.block.0.q"), "of this model (they are a text encoder's); is it a LoRA");
  refused(
      with("transformer.blocks.5.attn1.to_q.lora_A.weight", a_for()),
      "1 of its 3 tensors change no layer of this model, or in a way that is not known; use a LoRA for this "
      "model, of plain low-rank changes:\n  transformer.blocks.5.attn1.to_q.lora_A.weight [2, 12]");
  refused(with(query + ".lora_magnitude_vector", a_for()), query + ".lora_magnitude_vector [2, 12]");
  refused(with("transformer.blocks.0.norm2.lora_A.weight", a_for()),
          "transformer.blocks.0.norm2.lora_A.weight");
  refused(with("blocks.0.attn1.to_q.lora_A.weight", a_for()), "are the same part of blocks.0.attn1.to_q");
  refused({good[0]}, "the change of blocks.0.attn1.to_q is incomplete: " + query +
                         ".lora_A.weight is there, its lora_B (lora_up) is missing; is the file whole?");
  refused({good[1]}, "its lora_A (lora_down) is missing");
  refused({{query + ".alpha", at::ones({})}}, query + ".alpha is there, its pair of matrices is missing");
  refused(
      {{query + ".lora_A.weight", at::ones({2, 13})}, good[1]},
      query +
          ".lora_A.weight has shape [2, 13], and blocks.0.attn1.to_q of this model, of [12, 12], needs [2, "
          "12]: a LoRA for a model of another size?");
  refused({{query + ".lora_A.weight", at::ones({3, 12})}, good[1]}, "lora_B.weight has shape [12, 2]");
  refused({{query + ".lora_A.weight", at::ones({0, 12})}, good[1]}, "lora_A.weight has shape [0, 12]");
  refused({{query + ".diff", at::ones({12, 11})}}, query + ".diff has shape [12, 11]");
  refused(with(query + ".alpha", at::ones({2})), query + ".alpha must be one number, and has shape [2]");
  at::Tensor broken = a_for();
  broken[0][3] = std::numeric_limits<float>::quiet_NaN();
  refused({{query + ".lora_A.weight", broken}, good[1]},
          query + ".lora_A.weight has values that are NaN or Inf");
}

TEST_CASE("changes of a text encoder are left out") {
  const Scratch folder;
  NamedTensors tensors = pair("transformer.blocks.0.attn1.to_q");
  tensors.emplace_back("lora_te1_encoder_q.lora_down.weight", a_for());
  tensors.emplace_back("text_encoder.q.lora_A.weight", a_for());
  CHECK(read(folder, tensors).size() == 1);
}

TEST_CASE("forms have names, and files a place") {
  CHECK(parse_lora_form("diffusers") == LoraForm::diffusers);
  CHECK(parse_lora_form("comfyui") == LoraForm::comfyui);
  CHECK(parse_lora_form("kohya") == LoraForm::kohya);
  const auto unknown = caught([] { parse_lora_form("peft"); });
  CHECK(unknown.code == ExitCode::config);
  CHECK(unknown.has("\"peft\" is no form of LoRA files; diffusers, comfyui and kohya are"));
  const Scratch folder;
  const auto changes = changes_of_all(Model().weights(), 1);
  CHECK(caught([&] { write_lora(folder / "none/lora.safetensors", changes, LoraForm::kohya); }).code ==
        ExitCode::io);
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
