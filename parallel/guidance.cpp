#include "parallel/guidance.h"

#include "core/error.h"

namespace frameshard {

at::Tensor combine(const at::Tensor& cond, const at::Tensor& uncond, double scale) {
  return uncond + scale * (cond - uncond);
}

GuidanceCombiner::GuidanceCombiner(Communicator& cfg, double guidance_scale, bool together)
    : cfg_(cfg), scale_(guidance_scale) {
  require(cfg.size() == 1 || (cfg.size() == 2 && guided()), "a CFG group of {} ranks at guidance scale {}",
          cfg.size(), guidance_scale);
  if (!guided()) {
    mine_ = {{Branch::cond}};
  } else if (cfg.size() == 2) {
    mine_ = {{cfg.rank() == 0 ? Branch::cond : Branch::uncond}};
  } else if (together) {
    mine_ = {{Branch::cond, Branch::uncond}};
  } else {
    mine_ = {{Branch::cond}, {Branch::uncond}};
  }
}

at::Tensor GuidanceCombiner::operator()(const std::function<at::Tensor(size_t)>& predict) const {
  auto wide = [](const at::Tensor& prediction) { return prediction.to(at::kFloat); };
  if (!guided()) return wide(predict(0));
  if (cfg_.size() == 1) {
    const auto both = mine_.size() == 1 ? predict(0).chunk(2) : std::vector{predict(0), predict(1)};
    return combine(wide(both[0]), wide(both[1]), scale_);
  }
  // Predictions travel in the model's type and are combined in float32.
  const at::Tensor mine = predict(0).contiguous();
  const at::Tensor both = cfg_.all_gather(mine.view({-1}), {mine.numel(), mine.numel()});
  const at::Tensor branches = wide(both).view({2, -1});
  return combine(branches[0].view(mine.sizes()), branches[1].view(mine.sizes()), scale_);
}

}  // namespace frameshard
