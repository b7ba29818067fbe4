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
  if (!guided()) return predict(Branch::cond);
  if (cfg_.size() == 1) {
    const at::Tensor cond = predict(Branch::cond);
    return combine(cond, predict(Branch::uncond), scale_);
  }
  const at::Tensor mine = predict(this->mine().front()).contiguous();
  const at::Tensor both = cfg_.all_gather(mine.view({-1}), {mine.numel(), mine.numel()});
  return combine(both.narrow(0, 0, mine.numel()).view(mine.sizes()),
                 both.narrow(0, mine.numel(), mine.numel()).view(mine.sizes()), scale_);
}

}  // namespace frameshard
