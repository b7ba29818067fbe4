// What of a denoiser is trained, as TrainedParameters wants it, and how it is written.
#pragma once

#include <filesystem>

#include "launcher/train/train_job.h"
#include "models/lora.h"
#include "parallel/trained_parameters.h"

namespace frameshard {

/// How much a configuration trains, from names and shapes alone.
struct TrainedNumbers {
  int64_t trained = 0, all = 0;
  int64_t first_unit = 0, largest_block = 0;  ///< trained numbers of unit 0, and of the largest other unit
};
/// 78 where adapter.targets names no layer.
TrainedNumbers trained_numbers(const WeightList& weights, const TrainConfig& config);

/// A denoiser prepared for training: every weight, or new low-rank changes beside frozen weights.
class TrainedModel {
 public:
  /// `denoiser` must have weights of its own (not shared with other ranks), and outlive this.
  TrainedModel(Denoiser& denoiser, const TrainJob& job);

  /// For TrainedParameters, whose tensors these become: unit i + 1 holds the weights of block i, unit 0 all
  /// others.
  std::vector<TrainedParameter> parameters();
  /// Parts of stacked layers are views of what is trained from here on; to be called once it has its memory.
  void refresh_parts();
  /// Writes the LoRA file, or the transformer's folder of a whole model, from weights that are whole.
  /// `average`: flat, in the order of TrainedParameters::names(), to be written in the place of the weights;
  /// may be undefined. On one rank.
  void write(const std::filesystem::path& path, const at::Tensor& average, const TrainJob& job) const;

 private:
  void add_adapters(const TrainJob& job);
  void write_lora_file(const std::filesystem::path& file, const at::Tensor& average,
                       const TrainJob& job) const;
  void write_folder(const std::filesystem::path& folder, const at::Tensor& average,
                    const TrainJob& job) const;

  Denoiser& denoiser_;
  bool adapter_;
  std::vector<LoraLayer> changes_;  // as they began; a and b below are what is trained
  std::vector<LayerSlot> slots_;    // of the changes
  std::vector<size_t> places_;      // of the changes in their layers' adapters
};

}  // namespace frameshard
