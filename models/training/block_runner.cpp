#include "models/training/block_runner.h"

#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "core/error.h"

namespace frameshard {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A unit's weights, whole as long as this is there.
class Gathered {
 public:
  Gathered(TrainedParameters* parameters, int unit, int next) : parameters_(parameters), unit_(unit) {
    if (!parameters_) return;
    parameters_->gather(unit);
    if (next > 0 && next < parameters_->units()) parameters_->prefetch(next);
  }
  Gathered(const Gathered&) = delete;
  Gathered& operator=(const Gathered&) = delete;
  ~Gathered() {
    if (parameters_) parameters_->release(unit_);
  }

 private:
  TrainedParameters* parameters_;
  int unit_;
};

// What the backward pass needs to compute a block again.
struct HeldBlock : torch::CustomClassHolder {
  BlockRunner::Block block;
  TrainedParameters* parameters;
  int unit;
};

// The inputs come as one list, and after them one that requires a gradient, so that the backward pass comes
// here also where only the block's own weights are trained.
struct Recomputed : torch::autograd::Function<Recomputed> {
  static at::Tensor forward(AutogradContext* context, const c10::intrusive_ptr<HeldBlock>& held,
                            at::TensorList inputs) {
    context->saved_data["block"] = c10::IValue::make_capsule(held);
    context->save_for_backward(inputs.vec());
    const c10::AutoGradMode no_grad(false);
    const Gathered weights(held->parameters, held->unit, held->unit + 1);
    variable_list own = inputs.slice(0, inputs.size() - 1).vec();
    own.front() =
        own.front().clone();  // without gradients a block may use its memory, and it is needed again
    return held->block(own);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto held = c10::static_intrusive_pointer_cast<HeldBlock>(context->saved_data["block"].toCapsule());
    const auto saved = context->get_saved_variables();
    variable_list inputs;
    for (size_t i = 0; i + 1 < saved.size(); ++i) {
      inputs.push_back(saved[i].detach().requires_grad_(saved[i].requires_grad()));
    }
    const Gathered weights(held->parameters, held->unit, held->unit - 1);
    {
      const c10::AutoGradMode grad(true);
      const at::Tensor output = held->block(inputs);
      torch::autograd::backward({output}, {gradients[0]});
    }
    variable_list result{{}};  // of the block itself
    for (const at::Tensor& input : inputs)
      result.push_back(input.requires_grad() ? input.grad() : at::Tensor());
    result.emplace_back();
    return result;
  }
};

}  // namespace

void TrainingBlocks::idle_pass() const {
  TrainedParameters* parameters = options_.parameters;
  if (!parameters) return;
  for (int unit = 1; unit < parameters->units(); ++unit) const Gathered weights(parameters, unit, unit + 1);
  for (int unit = parameters->units() - 1; unit > 0; --unit)
    const Gathered weights(parameters, unit, unit - 1);
}

TrainingBlocks::TrainingBlocks(BlockRunOptions options) : options_(options) {
  require(!options_.parameters || options_.recompute,
          "weights that are gathered need blocks that are recomputed");
}

at::Tensor TrainingBlocks::run(size_t index, const Block& block, const Inputs& inputs) const {
  if (!options_.recompute) return block(inputs);
  const auto held = c10::make_intrusive<HeldBlock>();
  held->block = block;
  held->parameters = options_.parameters;
  held->unit = int(index) + 1;
  if (!c10::GradMode::is_enabled()) {
    const Gathered weights(held->parameters, held->unit, held->unit + 1);
    return block(inputs);
  }
  Inputs all = inputs;
  all.push_back(at::empty({0}, inputs.front().options()).requires_grad_(true));
  return Recomputed::apply(held, at::TensorList(all));
}

}  // namespace frameshard
