// The state of a training run on disk: sharded, atomic, and readable by any other number of ranks and ZeRO
// stage.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "models/training/optimizer.h"
#include "parallel/trained_parameters.h"

namespace frameshard {

/// Where a run stands.
struct TrainPosition {
  int64_t step = 0;     ///< steps that are done
  int64_t samples = 0;  ///< samples that are done
  std::string config_hash;
  std::map<std::string, std::string> more{};  ///< kept as it is: seconds, best losses
};

/// Writes `directory`/step-%08d: each rank's shards (weights, float32 master, averages) as
/// `rank-%05d.safetensors` with their places in the flat order, and at last `state.json` by rank 0, with
/// names, shapes and the number of files: without it the folder is no state. Of ranks that hold the same
/// (ZeRO 0) each writes an equal part. The folder is written under a temporary name (`.step-…tmp`), synced
/// and renamed; a state of the same step is replaced. 74 on every rank where one cannot write or sees another
/// disk; nothing is left then. Collective over `world`, the ranks that `parameters` are divided over. Returns
/// the folder.
std::filesystem::path save_train_state(const std::filesystem::path& directory, const TrainPosition& position,
                                       TrainedParameters& parameters, Optimizer& optimizer,
                                       Communicator& world);

/// The newest complete state below `directory`, or empty. One that is cut off is not complete, and passed
/// over with a warning.
std::filesystem::path newest_train_state(const std::filesystem::path& directory);

/// Reads a state, whatever number of ranks wrote it, into the shards and the optimizer, and publishes the
/// weights. 65 where names or shapes are of another model, weights of another precision, or a file was cut
/// off; 66 where one is missing. An average of the weights that is not there begins from them. Collective.
TrainPosition load_train_state(const std::filesystem::path& folder, TrainedParameters& parameters,
                               Optimizer& optimizer, Communicator& world);

/// Removes all but the newest `keep` complete states and what was left half-written.
void prune_train_states(const std::filesystem::path& directory, int64_t keep);

}  // namespace frameshard
