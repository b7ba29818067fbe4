#include "core/train_config.h"

#include "core/fields_read.h"
#include "core/fields_write.h"
#include "core/hash.h"
#include "core/io/run_directory.h"
#include "core/text.h"

namespace frameshard {
namespace {

// What must fit together.
class CrossCheck {
 public:
  CrossCheck(const TrainConfig& config, const Origins& origins) : config_(config), origins_(origins) {}

  void check() const {
    check_method();
    check_data();
    check_dreambooth();
    check_autoencoder();
    check_devices();
    if (config_.optimizer.warmup_samples > 0 && config_.train.max_samples &&
        config_.optimizer.warmup_samples > *config_.train.max_samples) {
      fail_at("optimizer.warmup_samples",
              "optimizer.warmup_samples, {}, is more than train.max_samples, {}: the learning rate would "
              "never be "
              "reached",
              config_.optimizer.warmup_samples, *config_.train.max_samples);
    }
  }

 private:
  template <class... Args>
  [[noreturn]] void fail_at(const std::string& path, fmt::format_string<Args...> format,
                            Args&&... args) const {
    fail(ExitCode::config, "{}: {}", origins_.where(path), fmt::format(format, std::forward<Args>(args)...));
  }

  void check_method() const {
    if (config_.train.from_scratch && config_.train.method != "full" && !config_.trains_vae()) {
      fail_at("train.from_scratch", "train.from_scratch needs train.method full or vae, got {}",
              config_.train.method);
    }
    if (config_.train.precision == "bf16_pure" && config_.train.ema > 0) {
      fail_at("train.ema", "train.ema needs weights in float32: set train.precision to bf16 or float32");
    }
    const bool wants_float32 = config_.train.precision == "float32";
    const bool wants_bfloat16 = config_.train.precision.starts_with("bf16");
    if ((wants_float32 && config_.model.dtype == "bfloat16") ||
        (wants_bfloat16 && config_.model.dtype == "float32") || config_.model.dtype == "float16") {
      fail_at("model.dtype",
              "model.dtype {} and train.precision {} do not go together; leave model.dtype at auto",
              config_.model.dtype, config_.train.precision);
    }
  }

  void check_data() const {
    if (config_.data.folder && config_.data.procedural) {
      fail_at("data", "data.folder and data.procedural are both given; leave one out");
    }
    if (!config_.data.folder && !config_.data.procedural) {
      fail_at("data", "data.folder (or data.procedural) must be given");
    }
    if (config_.data.procedural && !config_.dreambooth.instance_prompt.empty()) {
      fail_at("dreambooth.instance_prompt",
              "dreambooth.instance_prompt is for data.folder; drawn clips have captions of their own");
    }
    if (config_.validation.folder && config_.validation.procedural) {
      fail_at("validation", "validation.folder and validation.procedural are both given; leave one out");
    }
  }

  void check_dreambooth() const {
    if (config_.train.method != "dreambooth") {
      if (config_.dreambooth != DreamboothConfig()) {
        fail_at("dreambooth",
                "dreambooth is given, but train.method is {}; set it to dreambooth, or leave these "
                "keys out",
                config_.train.method);
      }
      return;
    }
    const DreamboothConfig& dreambooth = config_.dreambooth;
    if (dreambooth.class_prompt.empty() && dreambooth.prior_loss_weight > 0) {
      fail_at("dreambooth",
              "dreambooth.class_prompt must say what the subject's class is, as \"a dog\"; or set "
              "dreambooth.prior_loss_weight to 0");
    }
    if (!dreambooth.class_folder && dreambooth.class_items == 0 && dreambooth.prior_loss_weight > 0) {
      fail_at("dreambooth",
              "dreambooth.class_folder, or a number of dreambooth.class_items to be drawn by the model, "
              "must be given");
    }
  }

  void check_autoencoder() const {
    const AutoencoderConfig& autoencoder = config_.autoencoder;
    if (!config_.trains_vae()) {
      if (autoencoder != AutoencoderConfig()) {
        fail_at("autoencoder",
                "autoencoder is given, but train.method is {}; set it to vae, or leave these keys out",
                config_.train.method);
      }
      return;
    }
    if (config_.train.text_encoder) {
      fail_at("train.text_encoder", "train.text_encoder is for a denoiser; train.method vae has no text");
    }
    if (!config_.sample.prompts.empty()) {
      fail_at("sample.prompts", "sample.prompts are for a denoiser; train.method vae draws no videos");
    }
    if (config_.train.from_scratch && autoencoder.decoder_only) {
      fail_at("autoencoder.decoder_only",
              "autoencoder.decoder_only and train.from_scratch do not go together");
    }
    check_unused_by_vae();
    for (size_t i = 0; i < autoencoder.windows.size(); ++i) {
      const int64_t frames = autoencoder.windows[i];
      if (frames >= 1 && frames % 4 == 1 && frames <= config_.data.num_frames) continue;
      fail_at(
          fmt::format("autoencoder.windows.{}", i),
          "autoencoder.windows.{} is {}; it must be 1 + a multiple of 4, and at most data.num_frames ({})", i,
          frames, config_.data.num_frames);
    }
    check_vae_division();
  }

  // What would be without effect.
  void check_unused_by_vae() const {
    const auto refuse = [&](bool given, const char* key) {
      if (given) fail_at(key, "{} has no effect with train.method vae; leave it out", key);
    };
    refuse(config_.noise != NoiseConfig(), "noise");
    refuse(config_.adapter != AdapterConfig(), "adapter");
    refuse(config_.train.caption_dropout > 0, "train.caption_dropout");
    refuse(config_.model.dtype != ModelConfig().dtype, "model.dtype");
    refuse(config_.model.vae_dtype != ModelConfig().vae_dtype, "model.vae_dtype");
    const AutoencoderConfig& weights = config_.autoencoder;
    if (weights.absolute_weight + weights.square_weight + weights.edge_weight + weights.kl_weight == 0) {
      fail_at("autoencoder", "all weights of autoencoder are 0: there is nothing to learn");
    }
  }

  // An autoencoder has no tokens to share and no blocks to gather.
  void check_vae_division() const {
    if (config_.train.micro_batch > 1) {
      fail_at("train.micro_batch",
              "train.micro_batch is for a denoiser; train.method vae takes clips one by one");
    }
    if (config_.parallel.cp_size.value.value_or(1) > 1) {
      fail_at("parallel.cp_size", "parallel.cp_size is {}; train.method vae divides samples alone, so 1",
              *config_.parallel.cp_size.value);
    }
    if (config_.parallel.zero.value.value_or(0) > 2) {
      fail_at("parallel.zero", "parallel.zero is 3; train.method vae knows 0 to 2");
    }
    if (config_.train.recompute == "on") {
      fail_at("train.recompute", "train.recompute is for the blocks of a denoiser, and train.method is vae");
    }
  }

  void check_devices() const {
    for (size_t i = 0; i < config_.devices.size(); ++i) {
      if (config_.devices[i].dtype != "auto") {
        fail_at(fmt::format("devices.{}.dtype", i),
                "devices.{}.dtype: ranks that train have one type, which train.precision says", i);
      }
      if (!config_.devices[i].weight.is_auto()) continue;
      fail_at(fmt::format("devices.{}.weight", i),
              "devices.{}.weight: auto is for run; training needs numbers", i);
    }
  }

  const TrainConfig& config_;
  const Origins& origins_;
};

}  // namespace

TrainConfig load_train_config(const std::filesystem::path& file, std::span<const std::string> overrides) {
  const YamlNode tree = parse_yaml_file(file);
  TrainConfig config;
  config.name = run_name(file);
  Origins origins({std::make_shared<const std::string>(file.string()), 0, 0});
  parse_value(tree, config, "", origins);
  for (const std::string& text : overrides) override_value(config, split_assignment(text), 0, "", origins);
  check_value(config, "", &origins);
  CrossCheck(config, origins).check();
  return config;
}

std::string dump_yaml(const TrainConfig& config) {
  std::string out;
  dump_struct(out, config, 0);
  return out;
}

std::vector<std::pair<std::string, std::string>> flatten(const TrainConfig& config) {
  std::vector<std::pair<std::string, std::string>> out;
  flatten_value(config, "", out);
  return out;
}

std::string config_hash(const TrainConfig& config) {
  // What is divided, shown or kept does not change the weights; how long is trained may be changed on the
  // way.
  const auto other = {"parallel.",       "devices",           "validation.",   "sample.",
                      "checkpoint.",     "output.",           "data.cache",    "train.max_",
                      "train.recompute", "train.micro_batch", "adapter.format"};
  std::string text;
  for (const auto& [key, value] : flatten(config)) {
    if (std::any_of(other.begin(), other.end(), [&](auto start) { return key.starts_with(start); })) continue;
    text += key + "=" + value + "\n";
  }
  return fmt::format("{:016x}", fnv1a(text));
}

std::vector<KeyInfo> train_config_keys() {
  std::vector<KeyInfo> keys;
  list_keys(TrainConfig{}, "", keys);
  return keys;
}

}  // namespace frameshard
