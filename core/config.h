// The configuration of a run. Each struct's field list is the one place that names its keys, limits and help;
// the larger parts have files of their own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/field_rules.h"
#include "core/infer_config.h"
#include "core/request_config.h"

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

/// A hash of what determines the result: model, request (but for its id), lora, lossy, scheduler, and types
/// given in devices. 16 hexadecimal digits.
std::string config_hash(const RunConfig& config);

/// Every key there is.
std::vector<KeyInfo> config_keys();

}  // namespace frameshard
