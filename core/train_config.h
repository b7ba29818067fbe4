// The configuration of a training run (`frameshard train`). As in config.h, each struct's field list is the
// one place that names its keys, limits and help.
#pragma once

#include "core/config.h"
#include "core/train_method_config.h"

namespace frameshard {

/// `data.procedural:` clips that are drawn, of coloured shapes that move on a plain background.
struct ProceduralConfig {
  int64_t items = 64;
  int64_t seed = 0;
  std::string only;

  bool operator==(const ProceduralConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("items", self.items, "clips", in_range(1, 100000000));
    visit("seed", self.seed, "of what they show", in_range(0, std::numeric_limits<int64_t>::max()));
    visit("only", self.only,
          "words that each clip's object must have, as \"lime\" or \"heart\": colours and shapes beyond "
          "the usual ones among them; empty: any of the usual");
  }
};

/// `data:` what is trained on.
struct DataConfig {
  std::optional<std::string> folder;
  std::optional<ProceduralConfig> procedural;
  int64_t width = 832;
  int64_t height = 480;
  int64_t num_frames = 81;
  std::string buckets = "off";
  int64_t repeats = 1;
  std::string missing_captions = "error";
  int64_t max_sequence_length = 512;
  std::string cache = "outputs/cache";

  bool operator==(const DataConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("folder", self.folder,
          "clips and images with captions: a .txt beside each, or metadata.jsonl; folders named "
          "40_name repeat what they hold 40 times",
          non_empty());
    visit("procedural", self.procedural, "clips that are drawn, in the place of folder");
    visit("width", self.width, "pixels; what is larger is scaled and its middle taken",
          in_range(16, 8192).multiple_of(16));
    visit("height", self.height, "pixels", in_range(16, 8192).multiple_of(16));
    visit("num_frames", self.num_frames, "of a clip, at most; images have one",
          in_range(1, 4097).one_plus_multiple_of(4));
    visit("buckets", self.buckets,
          "off: every item at width x height and, unless an image, num_frames (shorter clips are "
          "left out); on: each at the size nearest to its own form with about as many pixels, and as many "
          "frames as it has",
          one_of({"off", "on"}));
    visit("repeats", self.repeats, "times that each item counts in an epoch", in_range(1, 1000000));
    visit("missing_captions", self.missing_captions, "error, or train such items with an empty caption",
          one_of({"error", "empty"}));
    visit("max_sequence_length", self.max_sequence_length, "tokens of a caption", in_range(2, 4096));
    visit("cache", self.cache, "folder of the encoded clips and captions, which later runs use again",
          non_empty());
  }
};

/// `noise:` how noisy the samples are that the model learns from.
struct NoiseConfig {
  std::string sampling = "logit_normal";
  double mean = 0.0;
  double deviation = 1.0;
  AutoOr<double> shift;

  bool operator==(const NoiseConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("sampling", self.sampling, "of the noise level in (0, 1)", one_of({"uniform", "logit_normal"}));
    visit("mean", self.mean, "of logit_normal", in_range(-100.0, 100.0));
    visit("deviation", self.deviation, "of logit_normal", in_range(0.0, 100.0).excluding_low());
    visit("shift", self.shift,
          "towards noise: s becomes shift s / (1 + (shift - 1) s); auto: the checkpoint's flow_shift",
          in_range(0.0, 100.0).excluding_low());
  }
};

/// `optimizer:` AdamW and its learning rate.
struct OptimizerConfig {
  double learning_rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  double clip_norm = 1.0;
  std::string schedule = "constant";
  int64_t warmup_samples = 0;

  bool operator==(const OptimizerConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("learning_rate", self.learning_rate, "at its highest", in_range(0.0, 10.0));
    visit("beta1", self.beta1, "of the gradient's average", in_range(0.0, 0.99999999));
    visit("beta2", self.beta2, "of its square's average", in_range(0.0, 0.99999999));
    visit("epsilon", self.epsilon, "added to the root of the latter", in_range(0.0, 1.0).excluding_low());
    visit("weight_decay", self.weight_decay, "decoupled from the gradient", in_range(0.0, 10.0));
    visit("clip_norm", self.clip_norm,
          "the gradient of all weights together is no longer than this; 0: as it is", in_range(0.0, 1e9));
    visit("schedule", self.schedule, "of the learning rate after the warm-up, down to 0 at the last sample",
          one_of({"constant", "cosine", "linear"}));
    visit("warmup_samples", self.warmup_samples, "samples in which the learning rate rises from 0",
          in_range(0, 1000000000000));
  }
};

/// `parallel:` how the work is divided.
struct ParallelConfig {
  AutoOr<int64_t> cp_size{1};
  AutoOr<int64_t> zero;
  std::string backend = "auto";
  std::string device = "auto";
  AutoOr<int64_t> threads_per_rank;
  double bucket_megabytes = 25;

  bool operator==(const ParallelConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("cp_size", self.cp_size,
          "ranks that share the tokens of one sample; the other factor of the ranks has samples of "
          "its own",
          in_range(1, 65536));
    visit("zero", self.zero,
          "what is divided over the ranks: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights "
          "too; auto: 1, and more where memory wants it",
          in_range(0, 3));
    visit("backend", self.backend, "what carries tensors between ranks",
          one_of({"auto", "nccl", "mpi", "threads"}));
    visit("device", self.device, "what computes", one_of({"auto", "cpu", "cuda"}));
    visit("threads_per_rank", self.threads_per_rank,
          "CPU threads; auto: OMP_NUM_THREADS, else allowed cores / ranks of this host", in_range(1, 1024));
    visit("bucket_megabytes", self.bucket_megabytes, "gradients that are summed over ranks in one message",
          in_range(0.0, 4096.0).excluding_low());
  }
};

/// `validation:` the loss on items that are not trained on, always with the same noise.
struct ValidationConfig {
  std::optional<std::string> folder;
  std::optional<ProceduralConfig> procedural;
  int64_t every_steps = 100;
  int64_t levels = 4;

  bool operator==(const ValidationConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("folder", self.folder, "as data.folder; null: none", non_empty());
    visit("procedural", self.procedural, "as data.procedural");
    visit("every_steps", self.every_steps, "steps between two validations", in_range(1, 1000000000));
    visit("levels", self.levels, "noise levels at which each item is tried", in_range(1, 1000));
  }
};

/// `sample:` videos that show what has been learnt so far.
struct SampleConfig {
  std::vector<std::string> prompts;
  AutoOr<int64_t> every_steps;
  int64_t num_inference_steps = 20;
  double guidance_scale = 5.0;
  int64_t seed = 0;

  bool operator==(const SampleConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("prompts", self.prompts, "a video each, at data's size; empty: none");
    visit("every_steps", self.every_steps,
          "steps between them; auto: at each epoch's end, beside its weights", in_range(1, 1000000000));
    visit("num_inference_steps", self.num_inference_steps, "denoising steps", in_range(1, 1000));
    visit("guidance_scale", self.guidance_scale, "strength of the prompt", in_range(0.0, 100.0));
    visit("seed", self.seed, "of the initial noise", in_range(0, std::numeric_limits<int64_t>::max()));
  }
};

/// `checkpoint:` when the state of the training is saved, and what is kept.
struct CheckpointConfig {
  std::optional<int64_t> every_steps;
  std::optional<double> every_minutes;
  bool every_epoch = true;
  int64_t keep = 2;

  bool operator==(const CheckpointConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("every_steps", self.every_steps, "steps between two; null: not by steps", in_range(1, 1000000000));
    visit("every_minutes", self.every_minutes, "minutes between two; null: not by time",
          in_range(0.0, 1e6).excluding_low());
    visit("every_epoch", self.every_epoch, "at the end of each epoch");
    visit("keep", self.keep,
          "newest ones that are kept to go on from; those of epochs keep their weights alone",
          in_range(1, 1000000));
  }
};

/// `output:` where a training run writes.
struct TrainOutputConfig {
  std::string directory = "outputs";
  bool overwrite = false;
  bool tensorboard = true;

  bool operator==(const TrainOutputConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("directory", self.directory, "relative to the working directory", non_empty());
    visit("overwrite", self.overwrite,
          "begin anew where a run of this name is complete or of another configuration");
    visit("tensorboard", self.tensorboard, "also write event files for TensorBoard");
  }
};

/// A whole training configuration.
struct TrainConfig {
  ModelConfig model;
  TrainMethodConfig train;
  AdapterConfig adapter;
  DreamboothConfig dreambooth;
  AutoencoderConfig autoencoder;
  DataConfig data;
  NoiseConfig noise;
  OptimizerConfig optimizer;
  ParallelConfig parallel;
  std::vector<DeviceConfig> devices;
  ValidationConfig validation;
  SampleConfig sample;
  CheckpointConfig checkpoint;
  TrainOutputConfig output;
  std::string name;  ///< the config file's stem, no key of the file

  bool trains_vae() const { return train.method == "vae"; }
  /// Low-rank changes are trained, and no weight of the checkpoint.
  bool trains_adapter() const {
    return train.method == "lora" || (train.method == "dreambooth" && dreambooth.adapter);
  }
  bool operator==(const TrainConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("model", self.model, "what is trained");
    visit("train", self.train, "what is trained, how long, and in which numbers");
    visit("adapter", self.adapter, "low-rank changes");
    visit("dreambooth", self.dreambooth, "a subject and its class");
    visit("autoencoder", self.autoencoder, "the loss of the autoencoder");
    visit("data", self.data, "what is trained on");
    visit("noise", self.noise, "how noisy the samples are");
    visit("optimizer", self.optimizer, "AdamW and its learning rate");
    visit("parallel", self.parallel, "how the work is divided");
    visit("devices", self.devices, "one for each rank, with its speed: its part of the samples");
    visit("validation", self.validation, "the loss on other items");
    visit("sample", self.sample, "videos that show what has been learnt");
    visit("checkpoint", self.checkpoint, "when the state is saved");
    visit("output", self.output, "what is written and where");
  }
};

/// Reads a file, applies the overrides in order and checks everything. Throws missing_file, and config with
/// the place of what is wrong.
TrainConfig load_train_config(const std::filesystem::path& file, std::span<const std::string> overrides = {});

/// The resolved configuration as YAML that load_train_config() reads back to the same values.
std::string dump_yaml(const TrainConfig& config);
std::vector<std::pair<std::string, std::string>> flatten(const TrainConfig& config);

/// A hash of what determines the trained weights; not of how the work is divided. 16 hexadecimal digits.
std::string config_hash(const TrainConfig& config);

/// Every key there is.
std::vector<KeyInfo> train_config_keys();

}  // namespace frameshard
