// What each rank does with a validated job.
#pragma once

#include "launcher/job.h"
#include "launcher/model_parts.h"
#include "launcher/observe/observer.h"

namespace frameshard {

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
