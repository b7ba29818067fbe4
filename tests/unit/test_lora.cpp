// Files of low-rank changes in three forms, and what is refused.
#include "core/io/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"
#include "tests/support/scratch.h"
#include "tests/support/small_lora.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::changes_of_all;
using frameshard::test::Model;
using frameshard::test::Scratch;
using frameshard::testing::relative_error;

namespace {

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
  const auto directory = caught([&] { read_lora(folder.path(), model.weights()); });
  CHECK(directory.code == ExitCode::missing_file);
  CHECK(directory.has("is a directory, a file is wanted"));
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
