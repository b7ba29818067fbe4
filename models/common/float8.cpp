#include "models/common/float8.h"

#include <c10/core/GradMode.h>

#include "core/cuda_module.h"
#include "core/error.h"

namespace frameshard {
namespace {

constexpr float largest = 448;  // of e4m3 without infinities
constexpr int first_capability = 89;
// Rows that are rounded at a time, so that their float32 forms take little memory.
constexpr int64_t rows_at_a_time = 4096;

// Inputs and outputs of a layer must be multiples of this on a GPU.
constexpr int64_t granularity = 16;

void quantize_into(const at::Tensor& x, at::Tensor values, at::Tensor scale) {
  const auto [low, high] = at::aminmax(x, 1);
  const at::Tensor largest_of_row = at::maximum(high, low.neg()).to(at::kFloat);
  // A row of zeros has no largest value; its scale is one of many that are right.
  scale.copy_(at::where(largest_of_row == 0, 1.0F, largest_of_row / largest));
  values.copy_(at::div(x, scale.unsqueeze(1)).clamp_(-largest, largest));  // in float32
}

at::Tensor dequantize(const Float8Rows& rows) {
  return rows.values.to(at::kFloat) * rows.scale.unsqueeze(1);
}

// With a scale a row the result of the GPU's product, and the bias that it adds, are bfloat16.
at::Tensor gpu_product(const Float8Rows& x, const Linear& layer, at::ScalarType dtype) {
  const bool adds_bias = layer.bias.defined() && layer.bias.scalar_type() == at::kBFloat16;
  at::Tensor out =
      at::_scaled_mm(x.values, layer.weight.t(), x.scale.unsqueeze(1), layer.scale.unsqueeze(0),
                     adds_bias ? std::optional(layer.bias) : std::nullopt, std::nullopt, at::kBFloat16)
          .to(dtype);
  return layer.bias.defined() && !adds_bias ? out.add_(layer.bias) : out;
}

}  // namespace

Float8Rows quantize_rows(const at::Tensor& x) {
  Float8Rows rows{at::empty(x.sizes(), x.options().dtype(at::kFloat8_e4m3fn)),
                  at::empty({x.size(0)}, x.options().dtype(at::kFloat))};
  for (int64_t begin = 0; begin < x.size(0); begin += rows_at_a_time) {
    const int64_t count = std::min(rows_at_a_time, x.size(0) - begin);
    quantize_into(x.narrow(0, begin, count), rows.values.narrow(0, begin, count),
                  rows.scale.narrow(0, begin, count));
  }
  return rows;
}

void quantize(Linear& layer) {
  if (layer.weight.size(0) % granularity != 0 || layer.weight.size(1) % granularity != 0) return;
  const c10::NoGradGuard no_grad;
  Float8Rows rows = quantize_rows(layer.weight);
  layer.weight = std::move(rows.values);
  layer.scale = std::move(rows.scale);
}

at::Tensor apply_float8(const Linear& layer, const at::Tensor& x) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = layer.weight.size(0);
  const Float8Rows rows = quantize_rows(x.reshape({-1, x.size(-1)}));
  if (x.is_cuda()) return gpu_product(rows, layer, x.scalar_type()).view(shape);
  const at::Tensor bias = layer.bias.defined() ? layer.bias.to(at::kFloat) : layer.bias;
  return at::linear(dequantize(rows), dequantize({layer.weight, layer.scale}), bias)
      .to(x.scalar_type())
      .view(shape);
}

void require_float8(const at::Device& device) {
  const int capability = device.is_cuda() ? cuda()->compute_capability(device.index()) : 0;
  if (capability >= first_capability) return;
  fail(ExitCode::config,
       "lossy.float8_linear needs a GPU of compute capability 8.9 or more; this is {}; set "
       "lossy.float8_linear=false",
       device.is_cuda() ? fmt::format("{} ({}), of {}.{}", device.str(), cuda()->device_name(device.index()),
                                      capability / 10, capability % 10)
                        : "a CPU");
}

}  // namespace frameshard
