// One rank's part in making one video after another: denoising, decoding, and the video's files.
#pragma once

#include "core/stopwatch.h"
#include "launcher/decode_team.h"
#include "launcher/failure.h"
#include "launcher/generate.h"
#include "launcher/outputs.h"
#include "launcher/resume.h"
#include "models/pipeline.h"

namespace frameshard {

class VideoMaker {
 public:
  /// Collective over `world`.
  VideoMaker(const Job& job, const RunPlan& plan, const RankPlace& place, const at::Device& device,
             Communicator& world, const RankTools& tools);

  ProcessMesh& mesh() { return mesh_; }
  const RankParts& parts() const { return parts_; }
  /// Reads the weights, where they may be together with the other ranks of this host. `text_seconds` is what
  /// this rank has spent on texts, for its metrics. Collective over `world`.
  void load(double text_seconds);

  /// Makes one video; collective over the replica. Where the job goes on without it, a NaN or Inf (80), and
  /// for a replica of one rank exhausted memory (71), is returned: on every rank of the replica, its message
  /// on the first; what was written is gone. Everything else is thrown.
  std::optional<Failure> make(const Unit& unit, const Conditioning& text);

  /// True on all ranks of the replica when one of them was asked to stop. Collective over the replica.
  bool asked_to_stop();
  [[noreturn]] static void fail_stopped();  ///< 75

 private:
  std::optional<Failure> attempt(const std::function<void()>& work);
  at::Tensor denoise(const Unit& unit, const Conditioning& text);
  std::optional<Failure> decode(const Unit& unit, const at::Tensor& latents,
                                std::optional<VideoOutput>& video);
  void decode_with_team(const Unit& unit, const at::Tensor& latents, std::optional<VideoOutput>& video);
  void begin_output(const Unit& unit, const at::Tensor& latents, std::optional<VideoOutput>& video) const;
  ResumeFile resume_file(const Unit& unit) const;
  void write_run_yaml(const Unit& unit, const std::filesystem::path& directory) const;
  OutputSettings settings(const Unit& unit) const;
  DenoiseWork work_of(const RequestConfig& request) const;
  int decode_threads();
  double take_peak(const at::Device& device);
  void note_first_step();
  Moved moved() { return moved_by(mesh_, attention_); }
  bool first() { return mesh_.replica().rank() == 0; }

  const Job& job_;
  const RunPlan& plan_;
  const RankPlace& place_;
  at::Device device_;
  Communicator& world_;
  Observer& observer_;
  ProcessMesh mesh_;
  AttentionStrategy attention_;
  DecodeTeam decoders_;
  RankParts parts_;
  ModelParts models_;
  at::Tensor noise_;  ///< that the video begins from
  RankMetrics metrics_;
};

}  // namespace frameshard
