#include "tests/support/random_folder.h"

#include <ATen/CPUGeneratorImpl.h>

#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "models/wan/dit.h"
#include "models/wan/text_umt5.h"
#include "models/wan/vae.h"

namespace frameshard::testing {
namespace {

namespace fs = std::filesystem;

// Scaled so that activations neither vanish nor explode: norms near 1, products by 1/sqrt(inputs).
at::Tensor random_weight(const WeightSlot& slot, at::ScalarType dtype, at::Generator generator) {
  const bool norm = slot.name.ends_with("gamma") || slot.name.find("norm") != std::string::npos;
  at::Tensor weight = at::randn(slot.shape, generator, at::TensorOptions().dtype(at::kFloat));
  if (norm && slot.name.ends_with("bias") == false) return (1 + 0.1 * weight).to(dtype);
  const int64_t inputs = slot.shape.size() > 1 ? weight.numel() / slot.shape[0] : 16;
  return weight.mul_(0.7 / std::sqrt(double(inputs))).to(dtype);
}

class ShardWriter {
 public:
  ShardWriter(const fs::path& folder, std::string stem, int64_t limit)
      : folder_(folder), stem_(std::move(stem)), limit_(limit) {
    fs::create_directories(folder);
  }
  void add(const std::string& name, const at::Tensor& tensor) {
    pending_.emplace_back(name, tensor);
    bytes_ += int64_t(tensor.nbytes());
    if (limit_ > 0 && bytes_ >= limit_) flush();
  }
  void finish() {
    if (limit_ == 0)
      return write_safetensors(folder_ / (stem_ + ".safetensors"), pending_, {{"format", "pt"}});
    if (!pending_.empty()) flush();
    const Json index = {{"metadata", {{"total_size", total_}}}, {"weight_map", weight_map_}};
    write_file_atomically(folder_ / (stem_ + ".safetensors.index.json"), index.dump(2));
  }

 private:
  void flush() {
    const std::string file = fmt::format("{}-{:05}.safetensors", stem_, ++count_);
    write_safetensors(folder_ / file, pending_, {{"format", "pt"}});
    for (const auto& [name, tensor] : pending_) weight_map_[name] = file;
    total_ += bytes_, bytes_ = 0;
    pending_.clear();
  }

  fs::path folder_;
  std::string stem_;
  int64_t limit_, bytes_ = 0, total_ = 0;
  int count_ = 0;
  NamedTensors pending_;
  Json weight_map_ = Json::object();
};

void write_weights(const WeightList& list, ShardWriter writer, at::ScalarType dtype,
                   at::Generator generator) {
  for (const WeightSlot& slot : list.slots()) writer.add(slot.name, random_weight(slot, dtype, generator));
  writer.finish();
}

void write_json(const fs::path& file, const Json& json) {
  fs::create_directories(file.parent_path());
  write_file_atomically(file, json.dump(2));
}

void write_configs(const fs::path& folder, const FolderSizes& s) {
  write_json(folder / "model_index.json", {{"_class_name", "WanPipeline"},
                                           {"scheduler", {"diffusers", "UniPCMultistepScheduler"}},
                                           {"text_encoder", {"transformers", "UMT5EncoderModel"}},
                                           {"tokenizer", {"transformers", "T5TokenizerFast"}},
                                           {"transformer", {"diffusers", "WanTransformer3DModel"}},
                                           {"vae", {"diffusers", "AutoencoderKLWan"}}});
  write_json(folder / "scheduler/scheduler_config.json", {{"_class_name", "UniPCMultistepScheduler"},
                                                          {"flow_shift", 3.0},
                                                          {"use_flow_sigmas", true},
                                                          {"prediction_type", "flow_prediction"},
                                                          {"num_train_timesteps", 1000},
                                                          {"solver_order", 2}});
  write_json(folder / "text_encoder/config.json", {{"architectures", {"UMT5EncoderModel"}},
                                                   {"model_type", "umt5"},
                                                   {"feed_forward_proj", "gated-gelu"},
                                                   {"d_model", s.text_dim},
                                                   {"d_ff", s.text_ffn_dim},
                                                   {"d_kv", s.text_head_dim},
                                                   {"num_heads", s.text_heads},
                                                   {"num_layers", s.text_layers},
                                                   {"vocab_size", s.vocabulary},
                                                   {"dropout_rate", 0.0}});
  write_json(folder / "transformer/config.json", {{"_class_name", "WanTransformer3DModel"},
                                                  {"num_attention_heads", s.heads},
                                                  {"attention_head_dim", s.head_dim},
                                                  {"num_layers", s.layers},
                                                  {"ffn_dim", s.ffn_dim},
                                                  {"in_channels", 16},
                                                  {"out_channels", 16},
                                                  {"text_dim", s.text_dim},
                                                  {"freq_dim", s.freq_dim},
                                                  {"patch_size", {1, 2, 2}},
                                                  {"cross_attn_norm", true},
                                                  {"qk_norm", "rms_norm_across_heads"},
                                                  {"eps", 1e-6},
                                                  {"rope_max_seq_len", 1024}});
  write_json(folder / "vae/config.json", {{"_class_name", "AutoencoderKLWan"},
                                          {"base_dim", s.vae_dim},
                                          {"z_dim", 16},
                                          {"dim_mult", {1, 2, 4, 4}},
                                          {"num_res_blocks", s.residual_blocks},
                                          {"attn_scales", Json::array()},
                                          {"temperal_downsample", {false, true, true}},
                                          {"dropout", 0.0},
                                          {"latents_mean", std::vector<double>(16, 0.1)},
                                          {"latents_std", std::vector<double>(16, 1.5)}});
}

}  // namespace

void write_random_folder(const fs::path& folder, const FolderSizes& sizes, const fs::path& tokenizer_from,
                         uint64_t seed) {
  write_configs(folder, sizes);
  fs::create_directories(folder / "tokenizer");
  fs::copy(tokenizer_from, folder / "tokenizer",
           fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const wan::Dit dit(wan::DitConfig::read(folder / "transformer/config.json"), sizes.dtype);
  write_weights(dit.weights(), {folder / "transformer", "diffusion_pytorch_model", sizes.shard_bytes},
                sizes.dtype, generator);
  const wan::Umt5 text(wan::Umt5Config::read(folder / "text_encoder/config.json"));
  write_weights(text.weights(), {folder / "text_encoder", "model", sizes.shard_bytes}, sizes.dtype,
                generator);
  const wan::WanVae vae(wan::VaeConfig::read(folder / "vae/config.json"));
  write_weights(vae.weights(), {folder / "vae", "diffusion_pytorch_model", 0}, sizes.dtype, generator);
}

}  // namespace frameshard::testing
