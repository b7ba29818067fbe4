#include "models/common/fused_gradients.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "models/common/fused_cpu.h"
#include "models/common/fused_cpu_backward.h"

namespace frameshard::cpu {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

template <class... Tensors>
bool wants_gradient(const Tensors&... inputs) {
  return c10::GradMode::is_enabled() && (inputs.requires_grad() || ...);
}

const float* floats(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

float* writable(const at::Tensor& x) {
  return x.defined() ? x.data_ptr<float>() : nullptr;
}

// Memory for the gradient of the input of that number; undefined where it is not wanted.
at::Tensor gradient(const AutogradContext* context, size_t input, at::IntArrayRef shape) {
  return context->needs_input_grad(input) ? at::empty(shape, at::kFloat) : at::Tensor();
}

RowShape row_shape(const at::Tensor& x) {
  return {x.size(0), x.size(1), x.size(2)};
}

at::Tensor run_norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                             double eps) {
  const at::Tensor scale_rows = scale.contiguous(), shift_rows = shift.contiguous();
  at::Tensor out = at::empty_like(x);
  norm_modulate(floats(x), floats(scale_rows), floats(shift_rows), writable(out), x.size(0) * x.size(1),
                x.size(1), x.size(2), float(eps));
  return out;
}

// [S, head_dim / 2, 2]: what the loops read.
at::Tensor real_turns(const at::Tensor& rope) {
  return rope.defined() ? at::view_as_real(rope).contiguous() : rope;
}

at::Tensor run_rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                               const at::Tensor& rope, double eps) {
  const int64_t d = x.size(2);
  at::Tensor out = at::empty({x.size(0), x.size(1), heads, d / heads}, x.options());
  const at::Tensor turns = real_turns(rope);
  rms_norm_rotate(floats(x), x.stride(1), floats(weight), floats(turns), writable(out), x.size(0) * x.size(1),
                  x.size(1), d, heads, float(eps));
  return out;
}

at::Tensor run_gelu_tanh(const at::Tensor& x) {
  at::Tensor out = at::empty_like(x);
  gelu_tanh(floats(x), writable(out), x.numel());
  return out;
}

struct NormModulate : Function<NormModulate> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& scale,
                            const at::Tensor& shift, double eps) {
    context->save_for_backward({x, scale});
    context->saved_data["eps"] = eps;
    return run_norm_modulate(x, scale, shift, eps);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor scale = saved[1].contiguous(), gy = gradients[0].contiguous();
    const at::Tensor gx = gradient(context, 0, x.sizes()), gscale = gradient(context, 1, scale.sizes()),
                     gshift = gradient(context, 2, scale.sizes());
    norm_modulate_backward({.x = floats(x),
                            .scale = floats(scale),
                            .gy = floats(gy),
                            .gx = writable(gx),
                            .gscale = writable(gscale),
                            .gshift = writable(gshift),
                            .shape = row_shape(x),
                            .eps = float(context->saved_data["eps"].toDouble())});
    return {gx, gscale, gshift, {}};
  }
};

// The rope comes as a pointer: an undefined tensor cannot be an input of a Function.
struct RmsNormRotate : Function<RmsNormRotate> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor* rope, int64_t heads, double eps) {
    context->save_for_backward({x, weight, *rope});
    context->saved_data["eps"] = eps;
    return run_rms_norm_rotate(x, weight, heads, *rope, eps);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor turns = real_turns(saved[2]), gy = gradients[0].contiguous();
    const at::Tensor gx = gradient(context, 0, x.sizes()), gweight = gradient(context, 1, weight.sizes());
    rms_norm_rotate_backward({.x = floats(x),
                              .weight = floats(weight),
                              .rope = floats(turns),
                              .gy = floats(gy),
                              .gx = writable(gx),
                              .gweight = writable(gweight),
                              .stride = x.stride(1),
                              .rows = x.size(0) * x.size(1),
                              .positions = x.size(1),
                              .d = x.size(2),
                              .heads = gy.size(2),
                              .eps = float(context->saved_data["eps"].toDouble())});
    return {gx, gweight, {}, {}, {}};
  }
};

// Where the gate is frozen the branch, large, is not kept.
struct GatedSum : Function<GatedSum> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& branch,
                            const at::Tensor& gate) {
    context->save_for_backward(
        {gate.requires_grad() ? branch : at::Tensor(), branch.requires_grad() ? gate : at::Tensor()});
    return at::addcmul(x, branch, gate);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& branch = saved[0];
    const at::Tensor gate = saved[1].defined() ? saved[1].contiguous() : saved[1];
    const at::Tensor gy = gradients[0].contiguous();
    const at::Tensor gbranch = gradient(context, 1, gy.sizes()),
                     ggate = gradient(context, 2, {gy.size(0), 1, gy.size(2)});
    gated_sum_backward({.branch = floats(branch),
                        .gate = floats(gate),
                        .gy = floats(gy),
                        .gbranch = writable(gbranch),
                        .ggate = writable(ggate),
                        .shape = row_shape(gy)});
    return {gradients[0], gbranch, ggate};
  }
};

struct GeluTanh : Function<GeluTanh> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return run_gelu_tanh(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor gy = gradients[0].contiguous();
    at::Tensor gx = at::empty_like(gy);
    gelu_tanh_backward(floats(saved[0]), floats(gy), writable(gx), gx.numel());
    return {gx};
  }
};

}  // namespace

at::Tensor norm_modulate(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps) {
  return wants_gradient(x, scale, shift) ? NormModulate::apply(x, scale, shift, eps)
                                         : run_norm_modulate(x, scale, shift, eps);
}

at::Tensor rms_norm_rotate(const at::Tensor& x, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& rope, double eps) {
  return wants_gradient(x, weight) ? RmsNormRotate::apply(x, weight, &rope, heads, eps)
                                   : run_rms_norm_rotate(x, weight, heads, rope, eps);
}

at::Tensor gated_sum(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& gate) {
  return wants_gradient(x, branch, gate) ? GatedSum::apply(x, branch, gate) : at::addcmul(x, branch, gate);
}

at::Tensor gelu_tanh(const at::Tensor& x) {
  return wants_gradient(x) ? GeluTanh::apply(x) : run_gelu_tanh(x);
}

}  // namespace frameshard::cpu
