#include "models/wan/make.h"

#include <map>

#include "core/error.h"
#include "core/hash.h"
#include "core/io/json_file.h"
#include "models/schedules/flow_grid.h"
#include "models/wan/dit.h"
#include "models/wan/text_umt5.h"
#include "models/wan/vae.h"

namespace frameshard::wan {
namespace {

class WanCheckpoint final : public Checkpoint {
 public:
  explicit WanCheckpoint(const std::filesystem::path& folder)
      : folder_(folder),
        text_config_(Umt5Config::read(folder / "text_encoder" / "config.json")),
        dit_config_(DitConfig::read(folder / "transformer" / "config.json")),
        vae_config_(VaeConfig::read(folder / "vae" / "config.json")),
        text_files_(WeightFiles::open_component(folder / "text_encoder", "model")),
        dit_files_(WeightFiles::open_component(folder / "transformer", "diffusion_pytorch_model")),
        vae_files_(WeightFiles::open_component(folder / "vae", "diffusion_pytorch_model")) {
    check_parts_fit();
    const Tokenizer readable(tokenizer_folder());  // a bad one is found now
    check_weights(Umt5(text_config_).weights(), text_files_, "UMT5EncoderModel");
    check_weights(Dit(dit_config_, at::kFloat).weights(), dit_files_, "WanTransformer3DModel");
    check_weights(WanVae(vae_config_).weights(), vae_files_, "AutoencoderKLWan");
    FlowSettings::read(scheduler_config(), {});
  }

  ModelFacts facts(at::ScalarType dtype, at::ScalarType vae_dtype) const override {
    ModelFacts facts = transformer_facts(dit_config_, dtype);
    facts.vae_decoder_dim = vae_config_.decoder_dim * vae_config_.multipliers[0];
    facts.vae_widest_dim = vae_config_.decoder_dim * vae_config_.multipliers[1];
    facts.text_encoder_bytes = Umt5(text_config_).weights().bytes(dtype);
    facts.vae_bytes = WanVae(vae_config_).weights().bytes(vae_dtype);
    facts.vae_element_bytes = int64_t(c10::elementSize(vae_dtype));
    return facts;
  }

  double flow_shift() const override { return FlowSettings::read(scheduler_config(), {}).shift; }

  std::string fingerprint() const override {
    return "text_encoder " + text_files_.fingerprint() + "\ntransformer " + dit_files_.fingerprint() +
           "\nvae " + vae_files_.fingerprint() + config_hashes();
  }
  std::string text_encoder_fingerprint() const override {
    std::map<std::string, std::string> files;  // by name: a directory has no order
    for (const auto& entry : std::filesystem::directory_iterator(tokenizer_folder())) {
      if (entry.is_regular_file()) files[entry.path().filename().string()] = file_hash(entry.path());
    }
    std::string text =
        text_files_.fingerprint() + "\nconfig " + file_hash(folder_ / "text_encoder" / "config.json");
    for (const auto& [name, hash] : files) text += "\n" + name + " " + hash;
    return text;
  }
  std::string vae_fingerprint() const override {
    return vae_files_.fingerprint() + "\nconfig " + file_hash(folder_ / "vae" / "config.json");
  }

  std::unique_ptr<Denoiser> denoiser_without_weights() const override {
    return std::make_unique<Dit>(dit_config_, at::kFloat);
  }
  std::unique_ptr<TextEncoder> text_encoder_without_weights() const override {
    return std::make_unique<Umt5>(text_config_);
  }
  std::unique_ptr<Vae> vae_without_weights() const override { return std::make_unique<WanVae>(vae_config_); }
  std::unique_ptr<TextEncoder> load_text_encoder(const LoadOptions& options) const override {
    auto encoder = std::make_unique<Umt5>(text_config_);
    encoder->use_tokenizer(Tokenizer(tokenizer_folder()));
    load_weights(encoder->weights(), text_files_, options);
    return encoder;
  }
  std::unique_ptr<Denoiser> load_denoiser(const LoadOptions& options) const override {
    auto dit = std::make_unique<Dit>(dit_config_, options.dtype);
    load_weights(dit->weights(), dit_files_, options);
    return dit;
  }
  std::unique_ptr<Vae> load_vae(const LoadOptions& options) const override {
    auto vae = std::make_unique<WanVae>(vae_config_);
    load_weights(vae->weights(), vae_files_, options);
    return vae;
  }
  std::unique_ptr<NoiseSchedule> schedule(const SchedulerConfig& overrides, int64_t steps) const override {
    return make_schedule(FlowSettings::read(scheduler_config(), overrides), steps);
  }

 private:
  // Settings that no weight shows: epsilons, the shift of the noise levels, the latents' mean and deviation.
  std::string config_hashes() const {
    std::string text;
    for (const char* name : {"scheduler/scheduler_config.json", "transformer/config.json", "vae/config.json",
                             "text_encoder/config.json"}) {
      text += fmt::format("\n{} {}", name, file_hash(folder_ / name));
    }
    return text;
  }

  std::filesystem::path tokenizer_folder() const { return folder_ / "tokenizer"; }
  std::filesystem::path scheduler_config() const { return folder_ / "scheduler" / "scheduler_config.json"; }

  void check_parts_fit() const {
    if (text_config_.width != dit_config_.text_dim) {
      fail(ExitCode::bad_data,
           "{}: the text encoder gives {} numbers a token and the transformer takes {} (text_dim)",
           folder_.string(), text_config_.width, dit_config_.text_dim);
    }
    if (vae_config_.latent_channels != dit_config_.in_channels) {
      fail(ExitCode::bad_data,
           "{}: the VAE has {} latent channels and the transformer takes {} (in_channels)", folder_.string(),
           vae_config_.latent_channels, dit_config_.in_channels);
    }
    const JsonReader index(folder_ / "model_index.json");
    if (index.has("boundary_ratio") || std::filesystem::exists(folder_ / "transformer_2")) {
      fail(ExitCode::bad_data, "{}: Wan 2.2 checkpoints with two transformers are not supported yet",
           folder_.string());
    }
  }

  std::filesystem::path folder_;
  Umt5Config text_config_;
  DitConfig dit_config_;
  VaeConfig vae_config_;
  WeightFiles text_files_, dit_files_, vae_files_;
};

}  // namespace

CheckpointPtr open_wan(const std::filesystem::path& folder) {
  return std::make_unique<WanCheckpoint>(folder);
}

}  // namespace frameshard::wan
