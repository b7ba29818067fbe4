// What one rank computes of a step's passes.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "models/common/launch_graph.h"
#include "models/common/step_cache.h"
#include "models/parts.h"
#include "models/step_passes.h"

namespace frameshard {

struct Conditioning;

struct RankPassOptions {
  bool together = false;    ///< a window's passes in one batch
  bool step_cache = false;  ///< one a batch is kept
  bool recorded = false;    ///< launches are recorded (common/launch_graph.h)
};

class RankPasses {
 public:
  /// `mine`: the numbers of this rank's passes, ascending. `sequence`, which may be replaced in
  /// its place, and `denoiser` must outlive it. Derives
  /// what the blocks need of each text, once.
  RankPasses(const Denoiser& denoiser, const ParallelSequence& sequence, const StepPasses& passes,
             const std::vector<size_t>& mine, const Conditioning& text, const at::Device& device,
             const RankPassOptions& options);

  /// Latents [1, C, F, h, w] -> a prediction a pass of this rank, of passes.shape(), in order. `reuse`: the
  /// step caches answer for the blocks. The results are overwritten by the next call.
  std::vector<at::Tensor> predict(const at::Tensor& latents, double timestep, bool reuse);

 private:
  struct Batch {
    FrameWindow frames;
    std::vector<size_t> texts;
    const TextContext* context;
    StepCache cache;
    std::optional<RecordedCall> predict;
  };

  const TextContext& context_of(const std::vector<size_t>& texts, const Conditioning& text,
                                const at::Device& device);

  const Denoiser& denoiser_;
  const ParallelSequence& sequence_;
  bool step_cache_;
  std::map<std::vector<size_t>, TextContext> contexts_;  // windows share them
  std::vector<std::unique_ptr<Batch>> batches_;
};

}  // namespace frameshard
