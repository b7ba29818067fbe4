// The table of fused_cuda.h, compiled into the module that is loaded where a GPU is.
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/error.h"
#include "models/common/cuda/fused_launch.h"
#include "models/common/fused_cuda.h"

namespace frameshard {
namespace {

template <class Operation>
void run(const Operation& operation, rows::Element element, int64_t rows, int device) {
  const c10::cuda::CUDAGuard guard{c10::DeviceIndex(device)};
  const cudaError_t status =
      rows::launch(operation, element, rows, c10::cuda::getCurrentCUDAStream().stream());
  if (status != cudaSuccess) {
    fail(ExitCode::internal, "CUDA: a fused kernel over {} rows of {} could not be started on cuda:{}: {}",
         rows, operation.d, device, cudaGetErrorString(status));
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const FusedKernels frameshard_fused_kernels = {
    run<rows::NormModulate>, run<rows::RmsNormRotate>, run<rows::GatedSum>, run<rows::ChannelNormSilu>};

}  // namespace frameshard
