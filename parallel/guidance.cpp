#include "parallel/guidance.h"

#include "core/error.h"

namespace frameshard {

at::Tensor combine(const at::Tensor& cond, const at::Tensor& uncond, double scale) {
  return uncond + scale * (cond - uncond);
}

GuidanceCombiner::GuidanceCombiner(Communicator& cfg, double guidance_scale)
    : cfg_(cfg), scale_(guidance_scale) {
  require(cfg.size() == 1 || (cfg.size() == 2 && guided()), "a CFG group of {} ranks at guidance scale {}",
          cfg.size(), guidance_scale);
}

std::vector<Branch> GuidanceCombiner::mine() const {
  if (!guided()) return {Branch::cond};
  if (cfg_.size() == 1) return {Branch::cond, Branch::uncond};
  return {cfg_.rank() == 0 ? Branch::cond : Branch::uncond};
}

at::Tensor GuidanceCombiner::operator()(const std::function<at::Tensor(Branch)>& predict) const {
  auto wide = [](const at::Tensor& prediction) { return prediction.to(at::kFloat); };
  if (!guided()) return wide(predict(Branch::cond));
  if (cfg_.size() == 1) {
    const at::Tensor cond = wide(predict(Branch::cond));
    return combine(cond, wide(predict(Branch::uncond)), scale_);
  }
  // Predictions travel in the model's type and are combined in float32.
  const at::Tensor mine = predict(this->mine().front()).contiguous();
  const at::Tensor both = cfg_.all_gather(mine.view({-1}), {mine.numel(), mine.numel()});
  const at::Tensor branches = wide(both).view({2, -1});
  return combine(branches[0].view(mine.sizes()), branches[1].view(mine.sizes()), scale_);
}

}  // namespace frameshard
