#include "models/common/launch_graph.h"

#include "core/cuda_module.h"
#include "core/error.h"
#include "core/log.h"

namespace frameshard {

LaunchGraphMaker launch_graphs(const at::Device& device) {
  if (!device.is_cuda()) return {};
  auto* make = reinterpret_cast<MakeLaunchGraph*>(cuda_symbol("frameshard_make_launch_graph"));
  if (!make) return {};
  return [make, device] { return std::unique_ptr<LaunchGraph>(make(device.index())); };
}

RecordedCall::RecordedCall(Function function, LaunchGraphMaker make)
    : function_(std::move(function)), make_(std::move(make)) {}

at::Tensor RecordedCall::operator()(const Inputs& inputs) {
  if (make_ && warm_ && !graph_) record(inputs);
  warm_ = true;
  if (!graph_) return function_(inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    require(inputs[i].sizes() == inputs_[i].sizes(), "a recorded call: input {} of another shape", i);
    inputs_[i].copy_(inputs[i], /*non_blocking=*/true);
  }
  graph_->replay();
  return output_;
}

void RecordedCall::record(const Inputs& inputs) {
  for (const at::Tensor& input : inputs) inputs_.push_back(input.clone(at::MemoryFormat::Contiguous));
  try {
    auto graph = make_();
    graph->record([&] { output_ = function_(inputs_); });
    graph_ = std::move(graph);
  } catch (const std::exception& error) {
    const std::string_view text = error.what();
    log::warning("the launches of a step cannot be recorded, and are made one by one: {}",
                 text.substr(0, text.find('\n')));
    make_ = nullptr;
    inputs_.clear();
    output_.reset();
  }
}

}  // namespace frameshard
