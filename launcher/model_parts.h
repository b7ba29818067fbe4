// The denoiser and the VAE of one rank, each loaded where and while it is used.
#pragma once

#include "launcher/job.h"
#include "launcher/part_shelf.h"
#include "launcher/placement.h"
#include "parallel/comm/host_group.h"
#include "parallel/mesh.h"

namespace frameshard {

/// Of all ranks that are threads of this process.
struct ModelCache {
  PartShelf<Denoiser> denoisers;
  PartShelf<Vae> vaes;
};

/// What infer.low_memory makes of a part that is not used on this device: 1 moves it from a GPU to the host,
/// 2 frees it, and it is read again.
WhenUnused when_unused(const RunConfig& config, const at::Device& device);

/// Who a rank loads together with.
struct LoadRanks {
  const RankPlace& place;
  ProcessMesh& mesh;
  Communicator& world;
  bool decodes;  ///< this rank has a use for the VAE
};

/// Where parts take turns on a device, end_denoising() and end_decoding() take the weights off it before the
/// other part comes. Replicas that are threads of one process and have a device in common do not wait for
/// each other: it holds what any of them uses.
class ModelParts {
 public:
  ModelParts(const Job& job, const RunPlan& plan, const RankParts& parts, ModelCache& cache, LoadRanks ranks)
      : job_(job), plan_(plan), parts_(parts), cache_(cache), ranks_(ranks) {}

  /// Reads the denoiser's weights, and the VAE's unless it waits for its turn. Collective over the world.
  void load();

  const Denoiser& begin_denoising();  ///< collective over the replica
  void end_denoising();               ///< collective over the replica
  const Vae& begin_decoding();        ///< collective over the replica's ranks that decode
  void end_decoding();                ///< likewise

 private:
  void take_denoiser();
  void take_denoiser_in_order(Communicator& together);
  void take_vae();
  void find_leaders();
  std::unique_ptr<HostGroup> group_for(const PartPlace& part, const std::string& word, bool takes_part);
  std::unique_ptr<HostGroup> group_of_threads();
  bool reads_again(const PartPlace& part) const {
    return when_unused(job_.config, part.device) == WhenUnused::freed;
  }

  const Job& job_;
  const RunPlan& plan_;
  RankParts parts_;
  ModelCache& cache_;
  LoadRanks ranks_;
  bool leads_ = true, followed_ = false;  ///< the first of its device, and whether any rank of the job is not
  std::unique_ptr<HostGroup> denoiser_group_, vae_group_;  ///< kept where weights are read again
  std::shared_ptr<const Denoiser> denoiser_;
  std::shared_ptr<const Vae> vae_;
};

/// Null where this rank reads alone. `word` is the part's place in the configuration. Collective over the
/// world.
std::unique_ptr<HostSharing> sharing_for(const Job& job, const RunPlan& plan, const PartPlace& part,
                                         const std::string& word, LoadRanks ranks);

}  // namespace frameshard
