// A checkpoint folder, opened: its config files and the headers of its weights are read and checked, no
// tensor is.
#pragma once

#include <filesystem>
#include <memory>

#include "core/config.h"
#include "models/parts.h"
#include "models/weights.h"
#include "parallel/plan.h"

namespace frameshard {

/// Where a denoiser and its noise schedule come from: what denoising alone needs.
class DenoiserSource {
 public:
  virtual ~DenoiserSource() = default;
  /// Numbers for the plan, with the bytes that the weights take in these dtypes.
  virtual ModelFacts facts(at::ScalarType dtype, at::ScalarType vae_dtype) const = 0;
  /// Of which only the names and shapes of weights() are there, for what must fit them.
  virtual std::unique_ptr<Denoiser> denoiser_without_weights() const = 0;
  /// With its weights in their final place.
  virtual std::unique_ptr<Denoiser> load_denoiser(const LoadOptions& options) const = 0;
  virtual std::unique_ptr<NoiseSchedule> schedule(const SchedulerConfig& overrides, int64_t steps) const = 0;
};

class Checkpoint : public DenoiserSource {
 public:
  /// Differs between ranks that see different weights: WeightFiles::fingerprint() of all parts, and their
  /// settings.
  virtual std::string fingerprint() const = 0;
  /// The same of what determines a part's results alone: its weights, its settings, the tokenizer's files.
  virtual std::string text_encoder_fingerprint() const { return fingerprint(); }
  virtual std::string vae_fingerprint() const { return fingerprint(); }

  /// By which its scheduler moves noise levels towards noise (flow matching); 1: not at all.
  virtual double flow_shift() const = 0;

  /// As denoiser_without_weights().
  virtual std::unique_ptr<TextEncoder> text_encoder_without_weights() const = 0;
  virtual std::unique_ptr<Vae> vae_without_weights() const = 0;

  // Each call reads the weights from disk into their final place, as load_denoiser() does.
  virtual std::unique_ptr<TextEncoder> load_text_encoder(const LoadOptions& options) const = 0;
  virtual std::unique_ptr<Vae> load_vae(const LoadOptions& options) const = 0;
};
using CheckpointPtr = std::unique_ptr<Checkpoint>;

/// Opens a diffusers folder by the pipeline class in its model_index.json. 66 where files are missing, 65
/// where they do not fit together or the family is unknown.
CheckpointPtr open_checkpoint(const std::filesystem::path& folder);

}  // namespace frameshard
