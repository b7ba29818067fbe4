#include "models/common/adapted_linear.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "models/common/products.h"

namespace frameshard {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// The a's of all changes as one matrix [Σr, in], so that x is read once.
at::Tensor stack_down(at::ArrayRef<at::Tensor> downs, at::ScalarType dtype) {
  return (downs.size() == 1 ? downs[0] : at::cat(downs)).to(dtype);
}

struct Product {
  at::Tensor y, hidden;  // [n, out], [n, Σr]
};

Product add_changes(const Linear& layer, const at::Tensor& rows, const BaseProduct& base) {
  std::vector<at::Tensor> downs;
  for (const LowRank& change : layer.adapters) downs.push_back(change.a);
  Product product{base(rows), matrix_product(rows, stack_down(downs, rows.scalar_type()).t())};
  int64_t begin = 0;
  for (const LowRank& change : layer.adapters) {
    const at::Tensor hidden = product.hidden.narrow(1, begin, change.a.size(0));
    add_product(product.y.narrow(1, change.first_row, change.b.size(0)), hidden,
                change.b.t().to(rows.scalar_type()), change.scale);
    begin += change.a.size(0);
  }
  return product;
}

// [n, out] -> [..., out]. No view to autograd: what is returned may be worked on in place.
at::Tensor in_shape_of(const at::Tensor& x, const at::Tensor& y) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = y.size(1);
  return at::_unsafe_view(y, shape);
}

// Differentiable inputs: x, weight, bias, then a and b of each change.
enum Input : size_t { input_x, input_weight, input_bias, input_changes };

struct AdaptedLinear : Function<AdaptedLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, at::TensorList changes, const Linear* layer,
                            const BaseProduct* base) {
    const Product product = add_changes(*layer, as_rows(x), *base);
    variable_list saved{x, weight, product.hidden};
    saved.insert(saved.end(), changes.begin(), changes.end());
    context->save_for_backward(std::move(saved));
    std::vector<double> scales;
    std::vector<int64_t> first_rows;
    for (const LowRank& change : layer->adapters) {
      scales.push_back(change.scale);
      first_rows.push_back(change.first_row);
    }
    context->saved_data["scales"] = scales;
    context->saved_data["first_rows"] = first_rows;
    context->saved_data["bias_dtype"] = int64_t(bias.scalar_type());
    return in_shape_of(x, product.y);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients);
};

// What a backward pass works on.
struct Saved {
  explicit Saved(AutogradContext* context)
      : tensors(context->get_saved_variables()),
        scales(context->saved_data["scales"].toDoubleVector()),
        first_rows(context->saved_data["first_rows"].toIntVector()) {}

  const at::Tensor& x() const { return tensors[0]; }
  const at::Tensor& weight() const { return tensors[1]; }
  const at::Tensor& hidden() const { return tensors[2]; }
  const at::Tensor& a(size_t i) const { return tensors[3 + 2 * i]; }
  const at::Tensor& b(size_t i) const { return tensors[4 + 2 * i]; }

  variable_list tensors;
  std::vector<double> scales;
  std::vector<int64_t> first_rows;
};

// scale * (gy_rows b) of all changes, [n, Σr]: the gradient of x aᵀ.
at::Tensor hidden_gradient(const Saved& saved, const at::Tensor& gy) {
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < saved.scales.size(); ++i) {
    const at::Tensor rows = gy.narrow(1, saved.first_rows[i], saved.b(i).size(0));
    parts.push_back(matrix_product(rows, saved.b(i).to(gy.scalar_type())).mul_(saved.scales[i]));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
}

at::Tensor input_gradient(const Saved& saved, const at::Tensor& gy, const at::Tensor& hidden_gradient) {
  std::vector<at::Tensor> downs;
  for (size_t i = 0; i < saved.scales.size(); ++i) downs.push_back(saved.a(i));
  at::Tensor gx = matrix_product(gy, saved.weight());
  add_product(gx, hidden_gradient, stack_down(downs, gy.scalar_type()));
  return gx.view(saved.x().sizes());
}

variable_list AdaptedLinear::backward(AutogradContext* context, const variable_list& gradients) {
  const Saved saved(context);
  const at::Tensor gy = as_rows(gradients[0]), rows = as_rows(saved.x());
  auto wanted = [&](size_t input) { return context->needs_input_grad(input); };
  const size_t changes = saved.scales.size();
  variable_list result(input_changes + 2 * changes + 2);  // the layer and the product have none

  bool wants_hidden = wanted(input_x);
  for (size_t i = 0; i < changes; ++i) wants_hidden = wants_hidden || wanted(input_changes + 2 * i);
  const at::Tensor hidden = wants_hidden ? hidden_gradient(saved, gy) : at::Tensor();
  if (wanted(input_x)) result[input_x] = input_gradient(saved, gy, hidden);
  if (wanted(input_weight)) result[input_weight] = matrix_product(gy.t(), rows);
  if (wanted(input_bias)) {
    result[input_bias] = gy.sum(0).to(at::ScalarType(context->saved_data["bias_dtype"].toInt()));
  }
  int64_t begin = 0;
  for (size_t i = 0; i < changes; ++i) {
    const at::Tensor &a = saved.a(i), &b = saved.b(i);
    const size_t place = input_changes + 2 * i;
    const int64_t rank = a.size(0);
    if (wanted(place))
      result[place] = matrix_product(hidden.narrow(1, begin, rank).t(), rows).to(a.scalar_type());
    if (wanted(place + 1)) {
      const at::Tensor gy_rows = gy.narrow(1, saved.first_rows[i], b.size(0));
      result[place + 1] = matrix_product(gy_rows.t(), saved.hidden().narrow(1, begin, rank))
                              .mul_(saved.scales[i])
                              .to(b.scalar_type());
    }
    begin += rank;
  }
  return result;
}

bool wants_gradient(const Linear& layer, const at::Tensor& x) {
  bool wanted = x.requires_grad() || layer.weight.requires_grad();
  for (const LowRank& change : layer.adapters) {
    wanted = wanted || change.a.requires_grad() || change.b.requires_grad();
  }
  return wanted || (layer.bias.defined() && layer.bias.requires_grad());
}

}  // namespace

at::Tensor apply_adapted(const Linear& layer, const at::Tensor& x, const BaseProduct& base) {
  if (!c10::GradMode::is_enabled() || !wants_gradient(layer, x)) {
    const c10::NoGradGuard no_grad;
    const Product product = add_changes(layer, as_rows(x), base);
    return in_shape_of(x, product.y);
  }
  require(!layer.scale.defined(), "gradients of a layer in 8-bit floats are asked for");
  variable_list changes;
  for (const LowRank& change : layer.adapters) changes.insert(changes.end(), {change.a, change.b});
  // A Function takes no undefined tensor.
  const at::Tensor bias = layer.bias.defined() ? layer.bias : at::empty({0}, layer.weight.options());
  return AdaptedLinear::apply(x, layer.weight, bias, at::TensorList(changes), &layer, &base);
}

}  // namespace frameshard
