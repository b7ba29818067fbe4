// Where a denoising stands, on disk: what a job that was stopped or killed goes on from.
#pragma once

#include <filesystem>
#include <string>

#include "models/pipeline.h"
#include "parallel/comm/communicator.h"

namespace frameshard {

/// The file of one video: resume-<config hash>.safetensors in its directory, so that another request never
/// goes on from it.
class ResumeFile {
 public:
  ResumeFile(const std::filesystem::path& directory, const std::string& config_hash)
      : file_(directory / ("resume-" + config_hash + ".safetensors")), config_hash_(config_hash) {}

  /// Latents, the solver's memory and the number of steps, all or nothing, with the configuration's hash and
  /// a checksum. Called by one rank.
  void save(const DenoiseState& state) const;

  /// The saved state, with `schedule` restored, on all ranks of the replica: its first rank reads. `start`
  /// where there is none, or it cannot be used (one line says so). Collective.
  DenoiseState load(const DenoiseState& start, NoiseSchedule& schedule, const at::Device& device,
                    Communicator& replica) const;

  void remove() const;

 private:
  std::filesystem::path file_;
  std::string config_hash_;
};

}  // namespace frameshard
