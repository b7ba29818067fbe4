// One run, validated: everything that can be known before a device is touched.
#pragma once

#include "core/config.h"
#include "launcher/lora.h"
#include "launcher/ranks.h"
#include "models/checkpoint.h"
#include "parallel/plan.h"

namespace frameshard {

/// One video to make: sample `sample` of request `request`.
struct Unit {
  size_t request;
  int64_t sample;
};

/// What an earlier run left of a video of a list. Of what several hosts see, the largest counts.
enum class UnitState : int64_t {
  missing,
  unusable,  ///< cut off or of another length: made again
  complete,  ///< of this configuration: kept
  other,     ///< of another configuration
};

struct Job {
  RunConfig config;                     ///< without the requests that cannot be made
  std::vector<RequestConfig> requests;  ///< all of them, with ids
  RequestFaults faults;                 ///< of requests that cannot be made while others of the list can
  std::vector<Unit> units;              ///< a request with a fault counts as one
  std::vector<UnitState> found;         ///< a state a unit, once survey_outputs() has looked
  bool fail_fast = true;
  CheckpointPtr checkpoint;
  LoraFacts lora;
  std::filesystem::path directory;  ///< of the run
  std::string failure_token;        ///< the same on every rank

  bool is_list() const { return !config.requests.empty(); }
  /// Of several videos, those that are complete are kept, and a run makes the others.
  bool keeps_complete() const { return is_list() || units.size() > 1; }
  /// A video that fails does not end the job.
  bool goes_on() const { return is_list() && !fail_fast; }
  /// True for a unit that is still to be made.
  bool wanted(size_t unit) const;
  std::filesystem::path unit_directory(const Unit& unit) const;
  /// "0001", or "0001/sample-2" of a batch; empty for a single video.
  std::string unit_name(const Unit& unit) const;
  /// The configuration that makes this video alone.
  RunConfig unit_config(const Unit& unit) const;
};

/// Reads and checks the configuration, the checkpoint's headers and the files of `lora`. Throws as their
/// readers do. Without `fail_fast`, requests of a list that cannot be made are faults, as long as one can be
/// made.
Job open_job(const std::string& config, const std::vector<std::string>& overrides, bool fail_fast = true);

/// What this host sees of each unit. A single request, and one that is to be overwritten, counts as missing.
std::vector<UnitState> survey_outputs(const Job& job);

/// Makes the run's directory and proves that it can be written (74): something that is no file may have the
/// name of one. Refuses a complete output of a single
/// request, and those of a list that are of another configuration (74). Looks itself where `job.found` is
/// empty.
void prepare_outputs(const Job& job);

/// The device's name and dtypes for the plan, without touching it. 78 where lossy.float8_linear is asked for
/// and the device has no such products.
PlanMachine describe_machine(const Job& job, const RankPlace& place, int world, int ranks_per_node,
                             bool own_gpu);
/// The place of `ranks` ranks that are threads of one process, and share its cores.
RankPlace place_of_threads(int ranks);
/// describe_machine for them.
PlanMachine describe_threads(const Job& job, int ranks);
ModelFacts model_facts(const Job& job, const std::string& device);

/// Throws 76 where ranks have different configurations or weights: names the key and both values.
void check_agreement(const Job& job, Communicator& world);

}  // namespace frameshard
