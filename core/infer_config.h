// The part of a configuration that says where and how it is made: sizes of the mesh, devices, places.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/field_rules.h"

namespace frameshard {

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

}  // namespace frameshard
