// Starts the kernels of fused.cu; apart from LibTorch's headers, which nvcc should not have to read.
#pragma once

#include <cuda_runtime_api.h>

#include "models/common/fused_rows.h"

namespace frameshard::rows {

/// `rows` rows on `stream` of the current device; does not wait. Returns the launch's own error.
cudaError_t launch(const NormModulate& operation, Element element, int64_t rows, cudaStream_t stream);
cudaError_t launch(const RmsNormRotate& operation, Element element, int64_t rows, cudaStream_t stream);
cudaError_t launch(const GatedSum& operation, Element element, int64_t rows, cudaStream_t stream);
cudaError_t launch(const ChannelNormSilu& operation, Element element, int64_t rows, cudaStream_t stream);

}  // namespace frameshard::rows
