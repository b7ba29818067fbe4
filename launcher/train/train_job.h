// One training run, validated: everything that can be known before a device is touched.
#pragma once

#include "core/train_config.h"
#include "launcher/job.h"
#include "models/training/dataset.h"
#include "models/training/sample_order.h"

namespace frameshard {

struct TrainJob {
  TrainConfig config;
  /// The same model, devices and output as a `run` has them; its requests are the samples to be drawn (one
  /// without a prompt where there are none), at the data's size.
  Job run;
  DatasetPtr data, prior,
      validation;  ///< `prior`: of the class (dreambooth), once there; the last two may be null
  std::filesystem::path directory;  ///< of the run: <output.directory>/<config name>

  std::unique_ptr<DenoiserSource>
      preset;  ///< a model by name, of which there are no files: to be planned for alone

  const DenoiserSource& source() const { return preset ? *preset : *run.checkpoint; }
  bool draws_samples() const { return !config.sample.prompts.empty(); }
  /// The file or folder that a run ends with.
  std::filesystem::path result() const;
};

/// Reads and checks the configuration, the checkpoint's headers and the data folders. Throws as their readers
/// do.
TrainJob open_train_job(const std::string& config, const std::vector<std::string>& overrides);
/// The same for a plan: model.path may be one of models/presets.h.
TrainJob open_train_job_for_plan(const std::string& config, const std::vector<std::string>& overrides);

/// Makes the run's directory and proves that it can be written (74). What an earlier run of this name and
/// configuration left is gone on from; 74 for a complete one, and one of another configuration: with
/// output.overwrite it is removed.
void prepare_train_outputs(const TrainJob& job);

/// Items and captions in a few words: differs where the data do. `data` may be null.
std::string data_identity(const Dataset* data);

/// The dtype that the denoiser computes in.
at::ScalarType training_dtype(const TrainJob& job, const at::Device& device);

/// What must be the same on all ranks: what it is, and a text of it.
std::vector<std::pair<std::string, std::string>> train_identity(const TrainJob& job);

}  // namespace frameshard
