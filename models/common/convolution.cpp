#include "models/common/convolution.h"

#include <ATen/Context.h>

namespace frameshard {
namespace {

std::vector<int64_t> for_each_dim(at::IntArrayRef values, int64_t dims) {
  return values.size() == 1 ? std::vector<int64_t>(size_t(dims), values[0]) : values.vec();
}

}  // namespace

at::Tensor convolve(const Linear& layer, const at::Tensor& x, at::IntArrayRef stride,
                    at::IntArrayRef padding) {
  const int64_t dims = layer.weight.dim() - 2;
  if (x.is_cpu() && x.scalar_type() == at::kFloat && at::hasMKLDNN()) {
    return at::mkldnn_convolution(x, layer.weight, layer.bias, for_each_dim(padding, dims),
                                  for_each_dim(stride, dims), for_each_dim(1, dims), /*groups=*/1);
  }
  return dims == 3 ? at::conv3d(x, layer.weight, layer.bias, stride, padding)
                   : at::conv2d(x, layer.weight, layer.bias, stride, padding);
}

at::Tensor channels_last(const at::Tensor& x) {
  return x.contiguous(x.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast);
}

at::Tensor empty_channels_last(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::empty(shape, options.memory_format(at::MemoryFormat::ChannelsLast3d));
}

}  // namespace frameshard
