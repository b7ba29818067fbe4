// CUDA graphs for models/common/launch_graph.h, compiled into the module that is loaded where a GPU is.
#include <map>

#include <ATen/core/CachingHostAllocator.h>
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

// One for each device of a thread: cuBLAS keeps a workspace for every stream that it has seen.
c10::cuda::CUDAStream recording_stream(c10::DeviceIndex device) {
  thread_local std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
  const auto known = streams.find(device);
  if (known != streams.end()) return known->second;
  return streams.emplace(device, c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device))
      .first->second;
}

class CudaLaunchGraph final : public LaunchGraph {
 public:
  explicit CudaLaunchGraph(int device) : device_(c10::DeviceIndex(device)) {}

  // The default stream cannot be recorded. The graph's pool needs what the call before it has left cached;
  // that is given back only where the device has no more, since it waits for all devices of this process, on
  // which other ranks' exchanges may wait for this one.
  void record(const std::function<void()>& work) override {
    const c10::cuda::CUDAGuard guard{device_};
    check(cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream(device_)), "waiting before a recording");
    if (is_short_of_memory()) c10::cuda::CUDACachingAllocator::emptyCache();
    const c10::cuda::CUDAStreamGuard stream{recording_stream(device_)};
    // Other threads (a status line, for one) may ask the device meanwhile.
    graph_.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
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
  bool is_short_of_memory() const {
    using c10::CachingAllocator::StatType;
    constexpr auto all = size_t(StatType::AGGREGATE);
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device_);
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    return int64_t(free) < stats.reserved_bytes[all].current - stats.allocated_bytes[all].current;
  }

  // Ends a recording that failed: the stream and the allocator must be as before. The first failure is told,
  // not those of parts that have ended already.
  void abandon() {
    try {
      graph_.capture_end();
    } catch (const std::exception&) {
    }
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device_, pool_);
      c10::cuda::CUDACachingAllocator::releasePool(device_, pool_);
    } catch (const std::exception&) {
    }
    try {
      at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool_);
      at::getHostAllocator(at::kCUDA)->release_pool(pool_);
    } catch (const std::exception&) {
    }
    cudaGetLastError();
  }

  c10::DeviceIndex device_;
  c10::MempoolId_t pool_ = at::cuda::graph_pool_handle();  // known here, where the recording fails
  at::cuda::CUDAGraph graph_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) LaunchGraph* frameshard_make_launch_graph(int device) {
  return new CudaLaunchGraph(device);
}

}  // namespace frameshard
