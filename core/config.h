// The configuration of a run. Each struct's field list is the one place that names its keys, limits and help.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/field_rules.h"

namespace frameshard {

/// `model:` what is run.
struct ModelConfig {
  std::string path;
  std::string dtype = "auto";
  std::string vae_dtype = "float32";

  bool operator==(const ModelConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    const auto dtypes = one_of({"auto", "float32", "bfloat16", "float16"});
    visit("path", self.path, "folder of a model in diffusers' layout", required(), non_empty());
    visit("dtype", self.dtype, "of the denoiser and text encoder; auto: float32 on a CPU, bfloat16 on CUDA",
          dtypes);
    visit("vae_dtype", self.vae_dtype, "of the VAE", dtypes);
  }
};

/// One of `prompts:`.
struct PromptConfig {
  std::string text;
  double weight = 1;
  std::optional<std::string> mask;

  bool operator==(const PromptConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("text", self.text, "what the video shows, or its part under the mask", required());
    visit("weight", self.weight, "its part of the prediction, in a unit that all share",
          in_range(0.0, 1e6).excluding_low());
    visit("mask", self.mask,
          "a picture of any size: white where the prompt counts, black where it does not; null: everywhere",
          non_empty());
  }
};

/// `context:` how a video longer than the model's length is denoised. In frames of the video.
struct ContextConfig {
  int64_t window = 81;
  int64_t overlap = 16;

  bool operator==(const ContextConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("window", self.window, "frames that the model sees at once",
          in_range(1, 4097).one_plus_multiple_of(4));
    visit("overlap", self.overlap, "frames that neighbouring windows share, at least; blended",
          in_range(0, 4096).multiple_of(4));
  }
};

/// `request:` one video, or one batch of the same shape.
struct RequestConfig {
  std::string id;
  std::string prompt;
  std::vector<PromptConfig> prompts;
  std::string negative_prompt;
  int64_t width = 832;
  int64_t height = 480;
  int64_t num_frames = 81;
  int64_t num_inference_steps = 50;
  double guidance_scale = 5.0;
  int64_t seed = 0;
  int64_t max_sequence_length = 512;
  int64_t batch_size = 1;
  std::optional<ContextConfig> context;
  std::optional<std::string> latents;

  /// Guidance needs a second pass of the denoiser for the negative prompt.
  bool uses_guidance() const { return guidance_scale > 1.0; }
  /// Its prompts: `prompts`, or `prompt` alone.
  std::vector<PromptConfig> all_prompts() const;
  /// Texts that a step's prediction is made from: the prompts, and with guidance the negative one.
  int64_t conditionings() const;
  bool operator==(const RequestConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("id", self.id, "name of its output directory in a list; empty: a 4-digit number",
          directory_name(100, {"results.jsonl", "queue.json"}));
    visit("prompt", self.prompt, "what the video shows", required_unless("prompts"));
    visit("prompts", self.prompts, "several, each with a weight and a mask, in the place of prompt");
    visit("negative_prompt", self.negative_prompt, "what guidance leads away from");
    visit("width", self.width, "pixels", in_range(16, 8192).multiple_of(16));
    visit("height", self.height, "pixels", in_range(16, 8192).multiple_of(16));
    visit("num_frames", self.num_frames, "frames", in_range(1, 4097).one_plus_multiple_of(4));
    visit("num_inference_steps", self.num_inference_steps, "denoising steps", in_range(1, 1000));
    visit("guidance_scale", self.guidance_scale, "strength of the prompt; 1 or less turns guidance off",
          in_range(0.0, 100.0));
    visit("seed", self.seed, "of the initial noise", in_range(0, std::numeric_limits<int64_t>::max()));
    visit("max_sequence_length", self.max_sequence_length, "tokens of the prompt", in_range(2, 4096));
    visit("batch_size", self.batch_size, "videos; video i uses seed + i", in_range(1, 1024));
    visit("context", self.context, "overlapping windows, for videos longer than the model's length");
    visit("latents", self.latents, "initial noise from a .safetensors file, key \"latents\"", non_empty());
  }
};

/// `infer.diffusion:` how many ways the work is split; cfg_size * cp_size * dp_size = ranks.
struct DiffusionConfig {
  AutoOr<int64_t> cp_size;
  AutoOr<int64_t> cfg_size;
  AutoOr<int64_t> dp_size;

  bool operator==(const DiffusionConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("cp_size", self.cp_size, "ranks that share the tokens of one sample", in_range(1, 65536));
    visit("cfg_size", self.cfg_size,
          "ranks, or groups of them, that share the passes of a step: both of guidance, and those of several "
          "prompts and windows",
          in_range(1, 65536));
    visit("dp_size", self.dp_size, "groups of ranks with samples of their own", in_range(1, 65536));
  }
};

/// `infer.attention:` how context parallelism is made up; ulysses_size * ring_size = cp_size.
struct AttentionConfig {
  AutoOr<int64_t> ulysses_size;
  AutoOr<int64_t> ring_size;

  bool operator==(const AttentionConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("ulysses_size", self.ulysses_size, "ranks that exchange tokens for heads", in_range(1, 65536));
    visit("ring_size", self.ring_size, "ranks that pass keys and values around", in_range(1, 65536));
  }
};

/// `infer:` where and how it runs.
struct InferConfig {
  DiffusionConfig diffusion;
  AttentionConfig attention;
  std::string backend = "auto";
  std::string device = "auto";
  std::string parallel = "auto";
  std::optional<int64_t> max_devices;
  std::string missing_devices = "error";
  int64_t low_memory = 0;
  bool rebalance = true;
  AutoOr<int64_t> threads_per_rank;
  AutoOr<int64_t> vae_parallel_size;
  bool pin_threads = true;
  bool share_weights = true;
  std::string overlap_exchange = "auto";
  std::string cuda_graph = "auto";

  bool operator==(const InferConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("diffusion", self.diffusion, "how many ways the work is split");
    visit("attention", self.attention, "how context parallelism is made up");
    visit("backend", self.backend, "what carries tensors between ranks",
          one_of({"auto", "nccl", "mpi", "threads"}));
    visit("device", self.device, "what computes", one_of({"auto", "cpu", "cuda"}));
    visit("parallel", self.parallel, "off: one device, where frameshard run starts the ranks itself",
          one_of({"auto", "off"}));
    visit("max_devices", self.max_devices, "devices that frameshard run starts ranks for; null: all",
          in_range(1, 1024));
    visit("missing_devices", self.missing_devices,
          "skip: go on without entries of devices that are not here, with a warning",
          one_of({"error", "skip"}));
    visit(
        "low_memory", self.low_memory,
        "1: each part's weights are on its device only while they are used; 2: and read again from the files",
        in_range(0, 2));
    visit("rebalance", self.rebalance,
          "where a weight of devices is auto: new shares when the measured speeds have drifted by 5 %");
    visit("threads_per_rank", self.threads_per_rank,
          "CPU threads; auto: OMP_NUM_THREADS, else allowed cores / ranks of this host", in_range(1, 1024));
    visit("vae_parallel_size", self.vae_parallel_size,
          "ranks that decode a video together, a band of the picture each; auto: one a GPU, or one a host",
          in_range(1, 65536));
    visit("pin_threads", self.pin_threads,
          "processes that share a host keep to the cores of one NUMA node each, their GPU's");
    visit("share_weights", self.share_weights,
          "ranks of a host read each weight once, and hold one copy of it where CPUs compute");
    visit("overlap_exchange", self.overlap_exchange,
          "attention over some heads while others are exchanged; auto: on GPUs where there is enough to do",
          one_of({"auto", "on", "off"}));
    visit("cuda_graph", self.cuda_graph,
          "the denoiser's launches recorded once and replayed; auto: on a GPU that has few tokens",
          one_of({"auto", "on", "off"}));
  }
};

/// One of `devices:`; one a rank.
struct DeviceConfig {
  std::string device = "auto";
  AutoOr<double> weight{1.0};
  std::string dtype = "auto";

  bool operator==(const DeviceConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("device", self.device, "what computes on this rank; auto: what infer.device says", device_word());
    visit("weight", self.weight,
          "its speed, in a unit that all share: its part of the tokens and heads; 0: none of them; auto (for "
          "all): measured",
          in_range(0.0, 1e9));
    visit(
        "dtype", self.dtype,
        "of the denoiser on this rank; auto: what model.dtype says. Where ranks differ they exchange in the "
        "narrower type",
        one_of({"auto", "float32", "bfloat16", "float16"}));
  }
};

/// `place:` what is loaded where.
struct PlaceConfig {
  std::vector<std::string> denoiser;
  std::string text_encoder = "default";
  std::string vae = "default";

  bool operator==(const PlaceConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("denoiser", self.denoiser, "its devices, one a rank: a short form of devices", place_word());
    visit("text_encoder", self.text_encoder, "default: the rank's device", place_word());
    visit("vae", self.vae, "default: the rank's device", place_word());
  }
};

/// One of `lora:`.
struct LoraConfig {
  std::string path;
  double scale = 1;
  bool merge = false;

  bool operator==(const LoraConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("path", self.path,
          "a .safetensors file of low-rank changes, with names as diffusers, ComfyUI or kohya have them",
          required(), non_empty());
    visit("scale", self.scale, "how much they count, on top of the file's own alpha",
          in_range(-100.0, 100.0));
    visit("merge", self.merge,
          "added to the weights once, which is faster; else computed beside them, which leaves the weights "
          "as they are");
  }
};

/// `lossy:` what trades exactness for time or memory. Part of what determines the result.
struct LossyConfig {
  double step_cache = 0.0;
  bool float8_linear = false;
  std::string vae_tiling = "auto";

  bool operator==(const LossyConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit(
        "step_cache", self.step_cache,
        "steps reuse the last computed one's change of the tokens while the timestep's embedding has changed "
        "by less, in sum; 0: never",
        in_range(0.0, 10.0));
    visit("float8_linear", self.float8_linear,
          "the denoiser's products in 8-bit floats (GPUs from compute capability 8.9)");
    visit("vae_tiling", self.vae_tiling,
          "decode in overlapping tiles that are blended; auto: where the whole does not fit into the memory",
          one_of({"auto", "on", "off"}));
  }
};

/// `scheduler:` what differs from the checkpoint's own scheduler.
struct SchedulerConfig {
  std::optional<double> flow_shift;
  std::optional<std::string> solver;
  std::string sigmas = "diffusers";

  bool operator==(const SchedulerConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("flow_shift", self.flow_shift, "null: what the checkpoint says",
          in_range(0.0, 100.0).excluding_low());
    visit("solver", self.solver, "null: what the checkpoint says", one_of({"unipc", "euler"}));
    visit("sigmas", self.sigmas, "whose noise levels", one_of({"diffusers", "wan"}));
  }
};

/// `output:` what is written and where.
struct OutputConfig {
  std::string directory = "outputs";
  int64_t fps = 16;
  bool save_latents = false;
  bool overwrite = false;

  bool operator==(const OutputConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("directory", self.directory, "relative to the working directory", non_empty());
    visit("fps", self.fps, "frames a second", in_range(1, 240));
    visit("save_latents", self.save_latents, "also write latents.safetensors");
    visit("overwrite", self.overwrite, "replace a complete output");
  }
};

/// A whole configuration. In a file `request` may stand beside `requests`, for what all of them share; once
/// loaded there is one or the other.
struct RunConfig {
  ModelConfig model;
  std::optional<RequestConfig> request;
  std::vector<RequestConfig> requests;
  InferConfig infer;
  std::vector<DeviceConfig> devices;
  PlaceConfig place;
  std::vector<LoraConfig> lora;
  LossyConfig lossy;
  SchedulerConfig scheduler;
  OutputConfig output;
  std::string name;  ///< the config file's stem, no key of the file

  bool operator==(const RunConfig&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("model", self.model, "what is run");
    visit("request", self.request, "one video, or what several share");
    visit("requests", self.requests,
          "several videos, each with the keys of request; or the path of a .yaml or .jsonl file, or of a "
          "directory of .txt files");
    visit("infer", self.infer, "where and how it runs");
    visit("devices", self.devices,
          "one for each rank, with its speed; empty: what infer.device says, all alike");
    visit("place", self.place, "what is loaded where");
    visit("lora", self.lora, "low-rank changes of the denoiser, all of which count");
    visit("lossy", self.lossy, "what trades exactness for time or memory");
    visit("scheduler", self.scheduler, "what differs from the checkpoint's scheduler");
    visit("output", self.output, "what is written and where");
  }
};

/// Why one request of a list cannot be made.
struct RequestFault {
  ExitCode code;
  std::string message;
};
/// By the request's place in the list.
using RequestFaults = std::map<std::size_t, RequestFault>;

/// Reads a file, and the file or directory that `requests` names, applies the overrides in order and checks
/// everything. Throws missing_file, bad_data for requests without any, config with the place of what is
/// wrong.
RunConfig load_run_config(const std::filesystem::path& file, std::span<const std::string> overrides = {});

/// The same, but requests of a list with values out of range, or that do not fit the rest, are noted and left
/// in the list.
RunConfig load_run_config(const std::filesystem::path& file, std::span<const std::string> overrides,
                          RequestFaults& faults);

/// Applies "a.b=value". Types and names are checked here, ranges by check_config().
void apply_override(RunConfig& config, const std::string& assignment);

/// Ranges, and what must fit together. Throws ExitCode::config.
void check_config(const RunConfig& config);

/// Every request, those of a list with their ids filled in.
std::vector<RequestConfig> all_requests(const RunConfig& config);

/// The configuration that makes sample `sample` of a request alone, and the same video.
RunConfig one_video_config(const RunConfig& config, const RequestConfig& request, int64_t sample);

/// The resolved configuration as YAML that load_run_config() reads back to the same values.
std::string dump_yaml(const RunConfig& config);

/// Dotted key and value of each single value, to compare configurations between ranks.
std::vector<std::pair<std::string, std::string>> flatten(const RunConfig& config);

/// A hash of what determines the result: model, request (but for its id), lossy and scheduler. 16 hexadecimal
/// digits.
std::string config_hash(const RunConfig& config);

/// Every key there is.
std::vector<KeyInfo> config_keys();

}  // namespace frameshard
