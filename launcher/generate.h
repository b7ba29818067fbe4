// What each rank does with a validated job.
#pragma once

#include "launcher/job.h"
#include "launcher/observe/observer.h"

namespace frameshard {

/// Models by device, loaded once and shared by the ranks that are threads of this process.
class ModelCache {
 public:
  /// With `host`, which a process of one rank may have, loaded by its ranks together (LoadOptions).
  std::shared_ptr<const Denoiser> denoiser(const Job& job, const at::Device& device, const HostGroup* host);
  std::shared_ptr<const Vae> vae(const Job& job, const at::Device& device, const HostGroup* host);

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Denoiser>> denoisers_;
  std::map<std::string, std::shared_ptr<const Vae>> vaes_;
};

/// How a job ended that ran to its end.
struct Generated {
  std::map<size_t, std::filesystem::path> videos;  ///< that this rank wrote, by unit
  // The same on every rank:
  ExitCode code = ExitCode::ok;  ///< of the first unit that failed
  std::string failures;          ///< "2 of 24 videos failed; the first: ID: MESSAGE", or empty
};

/// What a rank works with, and what outlives its work.
struct RankTools {
  ModelCache& models;
  Observer& observer;
};

/// Makes every video of the job that is wanted; collective over `world`.
Generated generate(const Job& job, const RunPlan& plan, const RankPlace& place, Communicator& world,
                   const RankTools& tools);

}  // namespace frameshard
