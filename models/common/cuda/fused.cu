// Kernels over rows: a part of a warp, a warp or a block a row, by its length.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "models/common/cuda/fused_launch.h"

namespace frameshard::rows {
namespace {

constexpr int threads = 256, warp = 32;

// `Count` neighbouring threads that share a row: a power of two, in one warp, or the whole block.
template <int Count>
struct Lanes {
  static_assert(Count <= warp || Count == threads);

  __device__ static int index() { return int(threadIdx.x) % Count; }
  __device__ static constexpr int count() { return Count; }

  // The same order of additions for every lane and at every call.
  __device__ static float sum(float value) {
    constexpr int width = Count < warp ? Count : warp;
    // Only the lanes of this row: those of the warp's next row may have left already.
    constexpr unsigned first = width == warp ? ~0U : (1U << width) - 1;
    const unsigned mask = first << (threadIdx.x % warp / width * width);
    for (int distance = width / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(mask, value, distance, width);
    }
    if constexpr (Count > warp) value = sum_of_warps(value);
    return value;
  }

 private:
  __device__ static float sum_of_warps(float value) {
    __shared__ float parts[threads / warp];
    __syncthreads();  // the sum before may still be read
    if (threadIdx.x % warp == 0) parts[threadIdx.x / warp] = value;
    __syncthreads();
    float total = 0;
    for (float part : parts) total += part;
    return total;
  }
};

template <class T, int W, int Count, class Operation>
__global__ void __launch_bounds__(threads) over_rows(const Operation operation, int64_t rows) {
  const int64_t row = int64_t(blockIdx.x) * (threads / Count) + threadIdx.x / Count;
  if (row < rows) operation.template row<T, W>(Lanes<Count>{}, row);
}

template <class T, int W, int Count, class Operation>
cudaError_t start(const Operation& operation, int64_t rows, cudaStream_t stream) {
  constexpr int64_t rows_a_block = threads / Count;
  const auto blocks = unsigned((rows + rows_a_block - 1) / rows_a_block);
  over_rows<T, W, Count><<<blocks, threads, 0, stream>>>(operation, rows);
  return cudaGetLastError();
}

// As few lanes as have something to do, and no more than four accesses each before a block shares the row.
template <class T, int W, class Operation>
cudaError_t start_by_length(const Operation& operation, int64_t rows, cudaStream_t stream) {
  const int accesses = (operation.d + W - 1) / W;
  if (accesses <= warp / 2) return start<T, W, warp / 2>(operation, rows, stream);
  if (accesses <= warp * 4) return start<T, W, warp>(operation, rows, stream);
  return start<T, W, threads>(operation, rows, stream);
}

template <class T, class Operation>
cudaError_t start_by_alignment(const Operation& operation, int64_t rows, cudaStream_t stream) {
  constexpr int pack = 16 / int(sizeof(T));
  return operation.takes_packs(pack) ? start_by_length<T, pack>(operation, rows, stream)
                                     : start_by_length<T, pair_width>(operation, rows, stream);
}

template <class Operation>
cudaError_t start_by_element(const Operation& operation, Element element, int64_t rows, cudaStream_t stream) {
  if (rows == 0 || operation.d == 0) return cudaSuccess;
  switch (element) {
    case Element::float32:
      return start_by_alignment<float>(operation, rows, stream);
    case Element::bfloat16:
      return start_by_alignment<__nv_bfloat16>(operation, rows, stream);
    case Element::float16:
      return start_by_alignment<__half>(operation, rows, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch(const NormModulate& operation, Element element, int64_t rows, cudaStream_t stream) {
  return start_by_element(operation, element, rows, stream);
}
cudaError_t launch(const RmsNormRotate& operation, Element element, int64_t rows, cudaStream_t stream) {
  return start_by_element(operation, element, rows, stream);
}
cudaError_t launch(const GatedSum& operation, Element element, int64_t rows, cudaStream_t stream) {
  return start_by_element(operation, element, rows, stream);
}
cudaError_t launch(const ChannelNormSilu& operation, Element element, int64_t rows, cudaStream_t stream) {
  return start_by_element(operation, element, rows, stream);
}

}  // namespace frameshard::rows
