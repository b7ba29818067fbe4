// Videos that show what a model has learnt so far, drawn by all ranks together: with guidance and context
// parallelism as `run` would, and the prompts dealt to the replicas.
#pragma once

#include <optional>

#include "launcher/decode_team.h"
#include "launcher/train/train_job.h"
#include "models/prompt_embeddings.h"
#include "parallel/strategies.h"

namespace frameshard {

class SampleDrawer {
 public:
  /// Plans the split of the ranks for `run`'s requests, which are drawn. Collective over `world`.
  SampleDrawer(const Job& run, const PlanMachine& machine, const RankPlace& place, at::Device device,
               Communicator& world);
  /// Encodes the prompts, with the checkpoint's text encoder, which is gone then, or with the one given.
  /// Collective over `world`.
  void encode_prompts(std::shared_ptr<const TextEncoder> encoder = nullptr);
  /// Draws every request into `directory`/<request id>/video.mp4, with a preview.png beside it if wanted, and
  /// returns the videos, on rank 0 alone. Collective over `world`. 80 where a video is not finite. Nothing
  /// where a stop was asked for on any rank: videos that were not complete are not there then.
  enum class Preview { none, strip };
  std::optional<std::vector<std::filesystem::path>> draw(const Denoiser& denoiser,
                                                         const std::filesystem::path& directory,
                                                         Preview preview = Preview::strip);

 private:
  void draw_one(const RequestConfig& request, const Denoiser& denoiser, const Vae* vae, DecodeTeam& team,
                const std::filesystem::path& directory, Preview preview);

  const Job& run_;
  const RankPlace& place_;
  at::Device device_;
  Communicator& world_;
  RunPlan plan_;
  ProcessMesh mesh_;
  AttentionStrategy attention_;
  std::optional<PromptEmbeddings> texts_;
};

}  // namespace frameshard
