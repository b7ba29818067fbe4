// One run, validated: everything that can be known before a device is touched.
#pragma once

#include <map>
#include <mutex>

#include "core/config.h"
#include "launcher/ranks.h"
#include "models/checkpoint.h"
#include "parallel/plan.h"

namespace frameshard {

/// One video to make: sample `sample` of request `request`.
struct Unit {
  size_t request;
  int64_t sample;
};

struct Job {
  RunConfig config;
  std::vector<RequestConfig> requests;
  CheckpointPtr checkpoint;
  std::filesystem::path directory;  ///< of the run
  std::string failure_token;        ///< the same on every rank

  std::vector<Unit> units() const;
  std::filesystem::path unit_directory(const Unit& unit) const;
};

/// Reads and checks the configuration and the checkpoint's headers. Throws as their readers do.
Job open_job(const std::string& config, const std::vector<std::string>& overrides);

/// Makes the run's directory and proves that it can be written (74), and refuses a complete output of a
/// single request.
void prepare_outputs(const Job& job);

/// The device's name and dtypes for the plan, without touching it.
PlanMachine describe_machine(const Job& job, const RankPlace& place, int world, int ranks_per_node,
                             bool own_gpu);
ModelFacts model_facts(const Job& job, const std::string& device);
/// "cpu" or "cuda": what infer.device means here; 78 where cuda is asked for and is not here.
std::string device_type(const std::string& wanted);

/// Throws 76 where ranks have different configurations or weights: names the key and both values.
void check_agreement(const Job& job, Communicator& world);

}  // namespace frameshard
