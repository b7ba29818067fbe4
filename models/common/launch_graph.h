// A function of tensors whose launches are recorded once on a GPU and then started together (CUDA graphs): a
// host that is slower than its GPU starts one graph instead of hundreds of kernels.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <ATen/ATen.h>

namespace frameshard {

/// What a backend records. The CUDA one lies in the module that is loaded where a GPU is: symbol
/// `frameshard_make_launch_graph`.
class LaunchGraph {
 public:
  virtual ~LaunchGraph() = default;
  /// Runs `work` on the host and keeps what it launches; the device does nothing yet. `work` must not wait
  /// for the device. Throws where something cannot be recorded; there is no graph then.
  virtual void record(const std::function<void()>& work) = 0;
  /// Starts all of it on the current stream. No memory is allocated, and nothing waited for.
  virtual void replay() = 0;
};
using MakeLaunchGraph = LaunchGraph*(int device);
using LaunchGraphMaker = std::function<std::unique_ptr<LaunchGraph>()>;

/// CUDA graphs of a device; empty where there is no GPU.
LaunchGraphMaker launch_graphs(const at::Device& device);

/// Calls the function as it is the first time (which warms up what is made once), records it the second time,
/// and replays it from then on. Where recording fails, one warning, and it is called as it is.
class RecordedCall {
 public:
  using Inputs = std::vector<at::Tensor>;
  using Function = std::function<at::Tensor(const Inputs&)>;

  /// Without a maker every call is the function's. It must compute the same from each input's values alone,
  /// and read no other memory that is not there as long as this is.
  RecordedCall(Function function, LaunchGraphMaker make);

  /// Inputs of the same shapes and types each time. The result is overwritten by the next call.
  at::Tensor operator()(const Inputs& inputs);

 private:
  void record(const Inputs& inputs);

  Function function_;
  LaunchGraphMaker make_;
  bool warm_ = false;
  std::unique_ptr<LaunchGraph> graph_;
  Inputs inputs_;  // where the graph reads
  at::Tensor output_;
};

}  // namespace frameshard
