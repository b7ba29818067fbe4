// What each rank does with a validated job.
#pragma once

#include "launcher/job.h"

namespace frameshard {

/// Models by device, loaded once and shared by the ranks that are threads of this process.
class ModelCache {
 public:
  std::shared_ptr<const Denoiser> denoiser(const Job& job, const at::Device& device);
  std::shared_ptr<const Vae> vae(const Job& job, const at::Device& device);

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Denoiser>> denoisers_;
  std::map<std::string, std::shared_ptr<const Vae>> vaes_;
};

/// Makes every video of the job; collective over `world`. Returns the videos that this rank wrote.
std::vector<std::filesystem::path> generate(const Job& job, const RunPlan& plan, const RankPlace& place,
                                            Communicator& world, ModelCache& models);

}  // namespace frameshard
