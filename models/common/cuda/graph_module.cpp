// CUDA graphs for models/common/launch_graph.h, compiled into the module that is loaded where a GPU is.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/error.h"
#include "models/common/launch_graph.h"

namespace frameshard {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    fail(ExitCode::internal, "CUDA: {} failed: {}", what, cudaGetErrorString(status));
}

class CudaLaunchGraph final : public LaunchGraph {
 public:
  explicit CudaLaunchGraph(int device) : device_(c10::DeviceIndex(device)) {}

  // The default stream cannot be recorded. Cached memory is given back first, since the graph takes a pool of
  // its own.
  void record(const std::function<void()>& work) override {
    const c10::cuda::CUDAGuard guard{device_};
    check(cudaDeviceSynchronize(), "waiting before a recording");
    c10::cuda::CUDACachingAllocator::emptyCache();
    const c10::cuda::CUDAStreamGuard stream{c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device_)};
    // Other threads (a status line, for one) may ask the device meanwhile.
    graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      work();
      graph_.capture_end();
    } catch (...) {
      abandon();
      throw;
    }
  }

  void replay() override {
    const c10::cuda::CUDAGuard guard{device_};
    graph_.replay();
  }

 private:
  // Ends a recording that failed: the stream and the allocator must be as before. The first failure is told,
  // not those of parts that have ended already.
  void abandon() {
    try {
      graph_.capture_end();
    } catch (const std::exception&) {
    }
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device_, graph_.pool());
    } catch (const std::exception&) {
    }
    cudaGetLastError();
  }

  c10::DeviceIndex device_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) LaunchGraph* frameshard_make_launch_graph(int device) {
  return new CudaLaunchGraph(device);
}

}  // namespace frameshard
