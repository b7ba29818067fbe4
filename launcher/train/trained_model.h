// What of a checkpoint is trained, as TrainedParameters wants it, and how it is written.
#pragma once

#include <filesystem>
#include <map>

#include "core/io/json_file.h"
#include "launcher/train/train_job.h"
#include "models/lora.h"
#include "parallel/trained_parameters.h"

namespace frameshard {

/// A part of a checkpoint that is trained, and where its folder has it.
struct TrainedPart {
  const WeightList* weights;
  std::string prefix;                ///< before the names of its weights and layers
  std::string folder, stem;          ///< its weights are <folder>/<stem>.safetensors
  std::vector<std::string> targets;  ///< of low-rank changes (lora_targets)
  std::vector<std::string> starts;   ///< of the names of the weights that are trained; empty: all are

  bool trains(const std::string& name) const;
};

/// The parts that a configuration trains, of those that there are: a denoiser (and a text encoder), or a VAE.
struct CheckpointParts {
  const Denoiser* denoiser = nullptr;
  const TextEncoder* text_encoder = nullptr;
  const Vae* vae = nullptr;
};
std::vector<TrainedPart> trained_parts(const CheckpointParts& parts, const TrainConfig& config);

/// How much a configuration trains, from names and shapes alone.
struct TrainedNumbers {
  int64_t trained = 0, all = 0;
  int64_t first_unit = 0, largest_block = 0;  ///< trained numbers of unit 0, and of the largest other unit
};
/// 78 where adapter.targets names no layer.
TrainedNumbers trained_numbers(const std::vector<TrainedPart>& parts, const TrainConfig& config);

/// Loaded parts prepared for training: their weights, or new low-rank changes beside frozen weights.
class TrainedModel {
 public:
  /// The parts must have weights of their own (not shared with other ranks), in `dtype`, and outlive this.
  TrainedModel(std::vector<TrainedPart> parts, const TrainJob& job, at::ScalarType dtype);

  /// For TrainedParameters, whose tensors these become: unit i + 1 holds the weights of the denoiser's block
  /// i, unit 0 all others.
  std::vector<TrainedParameter> parameters();
  /// Parts of stacked layers are views of what is trained from here on; to be called once it has its memory.
  void refresh_parts();

  /// What is written beside the weights as they are.
  struct Written {
    at::Tensor average;  ///< flat, in the order of TrainedParameters::names(), in the place of the weights;
                         ///< or undefined
    std::map<std::string, Json> settings{};  ///< of the part's config.json that change, by key
  };
  /// Writes the LoRA file, or a whole model's folder, from weights that are whole. On one rank.
  void write(const std::filesystem::path& path, const Written& written, const TrainJob& job) const;

 private:
  struct Change {
    LayerSlot slot;
    LoraLayer written;  // its name, with the part's prefix, and scale; a and b are the adapter's
    size_t place;       // in the layer's adapters
    LowRank& now() const { return slot.computed->adapters[place]; }
  };

  void add_adapters(const TrainJob& job);
  void write_lora_file(const std::filesystem::path& file, const Written& written, const TrainJob& job) const;
  void write_folder(const std::filesystem::path& folder, const Written& written, const TrainJob& job) const;
  NamedTensors tensors_of(const TrainedPart& part, const at::Tensor& average) const;

  std::vector<TrainedPart> parts_;
  at::ScalarType dtype_;
  bool adapter_;
  std::vector<Change> changes_;
};

}  // namespace frameshard
