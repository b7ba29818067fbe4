#include "models/common/convolution.h"

#include <array>

#include <ATen/Context.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace frameshard {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

std::vector<int64_t> for_each_dim(at::IntArrayRef values, int64_t dims) {
  return values.size() == 1 ? std::vector<int64_t>(size_t(dims), values[0]) : values.vec();
}

// The 3-D convolution with a backward pass by oneDNN too: where batch * channels * frames * rows is at most
// 20480, ATen's takes loops of its own that were 2 to 5 times as slow. For tensors in oneDNN's layout it
// takes oneDNN whatever their size.
struct Convolution3d : Function<Convolution3d> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, const std::vector<int64_t>& stride,
                            const std::vector<int64_t>& padding) {
    context->save_for_backward({x, weight});
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    return at::mkldnn_convolution(x, weight, bias, padding, stride, {1, 1, 1}, /*groups=*/1);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const std::array<bool, 3> wanted{context->needs_input_grad(0), context->needs_input_grad(1),
                                     context->needs_input_grad(2)};
    auto [gx, gweight, gbias] = at::convolution_backward(
        gradients[0].to_mkldnn(), x.to_mkldnn(), weight, at::IntArrayRef{weight.size(0)},
        context->saved_data["stride"].toIntVector(), context->saved_data["padding"].toIntVector(), {1, 1, 1},
        /*transposed=*/false, {0, 0, 0}, /*groups=*/1, wanted);
    if (wanted[0]) gx = channels_last(gx.to_dense());
    return {gx, gweight, gbias, {}, {}};
  }
};

bool wants_gradient(const Linear& layer, const at::Tensor& x) {
  const bool by_bias = layer.bias.defined() && layer.bias.requires_grad();
  return c10::GradMode::is_enabled() && (x.requires_grad() || layer.weight.requires_grad() || by_bias);
}

}  // namespace

at::Tensor convolve(const Linear& layer, const at::Tensor& x, at::IntArrayRef stride,
                    at::IntArrayRef padding) {
  const int64_t dims = layer.weight.dim() - 2;
  if (x.is_cpu() && x.scalar_type() == at::kFloat && at::hasMKLDNN()) {
    // A kernel of one pixel is slower so.
    if (dims == 3 && layer.weight.size(-1) > 1 && wants_gradient(layer, x)) {
      return Convolution3d::apply(x, layer.weight, layer.bias, for_each_dim(stride, dims),
                                  for_each_dim(padding, dims));
    }
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
