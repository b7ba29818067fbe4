#include "models/common/products.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace frameshard {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Where an AMD processor has AVX-512, oneDNN's products were 1.1 (Zen 4) and 2.2 times as fast as MKL's;
// without it the two were equal (docs/speed.md).
bool onednn_is_faster() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool faster = at::hasMKLDNN() && __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f");
  return faster;
#else
  return false;
#endif
}

bool takes_onednn(const at::Tensor& a, const at::Tensor& b) {
  auto taken = [](const at::Tensor& x) {
    return x.is_cpu() && x.scalar_type() == at::kFloat && x.numel() > 0;
  };
  return onednn_is_faster() && taken(a) && taken(b);
}

// ATen's only entry to oneDNN's float32 products: x [..., k] times weight [m, k] transposed. The weight may
// be stored either way round; where its rows are apart in memory oneDNN takes a loop that is 20 times as
// slow.
at::Tensor pointwise_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  using Product =
      at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                 c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto product =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Product>();
  const bool dense = weight.is_contiguous() || weight.t().is_contiguous();
  const std::optional<at::Tensor> added = bias.defined() ? std::optional(bias) : std::nullopt;
  return product.call(x, dense ? weight : weight.contiguous(), added, "none",
                      c10::List<std::optional<at::Scalar>>(), "");
}

struct OneDnnLinear : Function<OneDnnLinear> {
  // Without a bias an empty tensor stands for it: a Function takes no undefined one.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, bool has_bias) {
    // Of a frozen layer no input is kept, as with at::linear.
    context->save_for_backward(
        {weight.requires_grad() ? x : at::Tensor(), x.requires_grad() ? weight : at::Tensor()});
    context->saved_data["x_sizes"] = x.sizes().vec();
    return pointwise_linear(x, weight, has_bias ? bias : at::Tensor());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], gy = as_rows(gradients[0]);
    variable_list result(4);
    if (context->needs_input_grad(0)) {
      result[0] = onednn::matrix_product(gy, weight).view(context->saved_data["x_sizes"].toIntVector());
    }
    if (context->needs_input_grad(1)) result[1] = onednn::matrix_product(gy.t(), as_rows(x));
    if (context->needs_input_grad(2)) result[2] = gy.sum(0);
    return result;
  }
};

}  // namespace

at::Tensor onednn::linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool wanted = c10::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad() ||
                                                      (bias.defined() && bias.requires_grad()));
  if (!wanted) return pointwise_linear(x, weight, bias);
  const at::Tensor given = bias.defined() ? bias : at::empty({0}, weight.options());
  return OneDnnLinear::apply(x, weight, given, bias.defined());
}

at::Tensor onednn::matrix_product(const at::Tensor& a, const at::Tensor& b) {
  return pointwise_linear(a, b.t(), {});
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return takes_onednn(x, weight) ? onednn::linear(x, weight, bias) : at::linear(x, weight, bias);
}

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {
  return takes_onednn(a, b) ? onednn::matrix_product(a, b) : a.mm(b);
}

void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double scale) {
  if (takes_onednn(a, b)) {
    sum.add_(onednn::matrix_product(a, b), scale);
  } else {
    sum.addmm_(a, b, /*beta=*/1, scale);
  }
}

}  // namespace frameshard
