#include "models/rank_passes.h"

#include "models/pipeline.h"

namespace frameshard {

RankPasses::RankPasses(const Denoiser& denoiser, const ParallelSequence& sequence, const StepPasses& passes,
                       const std::vector<size_t>& mine, const Conditioning& text, const at::Device& device,
                       const RankPassOptions& options)
    : denoiser_(denoiser), sequence_(sequence), step_cache_(options.step_cache) {
  for (const auto& numbers : batches_of(mine, passes.all(), options.together)) {
    std::vector<size_t> texts;
    for (const size_t number : numbers) texts.push_back(passes.all()[number].text);
    const TextContext* context = &context_of(texts, text, device);
    batches_.push_back(
        std::make_unique<Batch>(Batch{passes.all()[numbers[0]].frames, std::move(texts), context, {}, {}}));
    Batch* batch = batches_.back().get();
    batch->predict.emplace(
        [this, batch](const RecordedCall::Inputs& inputs) {
          return denoiser_.predict(inputs[0].expand({inputs[1].size(0), -1, -1, -1, -1}), inputs[1],
                                   *batch->context, sequence_, step_cache_ ? &batch->cache : nullptr);
        },
        options.recorded ? launch_graphs(device) : LaunchGraphMaker());
  }
}

const TextContext& RankPasses::context_of(const std::vector<size_t>& texts, const Conditioning& text,
                                          const at::Device& device) {
  const auto [found, added] = contexts_.try_emplace(texts);
  if (added) {
    std::vector<at::Tensor> embeddings;
    for (const size_t i : texts) embeddings.push_back(i < text.cond.size() ? text.cond[i] : text.uncond);
    found->second = denoiser_.prepare(at::cat(embeddings).to(device));
  }
  return found->second;
}

std::vector<at::Tensor> RankPasses::predict(const at::Tensor& latents, double timestep, bool reuse) {
  std::vector<at::Tensor> predictions;
  for (const auto& batch : batches_) {
    batch->cache.reuse = reuse;
    const at::Tensor window = latents.narrow(2, batch->frames.begin, batch->frames.count());
    const at::Tensor times = at::full({int64_t(batch->texts.size())}, timestep, latents.options());
    for (const at::Tensor& each : (*batch->predict)({window, times}).split(1)) predictions.push_back(each);
  }
  return predictions;
}

}  // namespace frameshard
