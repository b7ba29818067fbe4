#include "models/common/attention_cpu.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "models/common/attention_cpu_loops.h"

namespace frameshard::cpu {
namespace {

// The loops of one instruction set.
struct LoopSet {
  const char* name;
  int64_t panel, query_block, key_block, backward_key_block;
  int64_t (*forward_scratch)(int64_t dim);
  int64_t (*backward_scratch)(const AttentionSizes&);
  void (*pack_keys)(HeadRows<const float> k, HeadRows<const float> v, const AttentionSizes&,
                    float* key_panels, float* values);
  void (*forward)(const AttentionForward&);
  void (*backward)(const AttentionBackward&);
};

// Loops of `Lanes` x `Rows` compiled with `target`: an attribute, or nothing.
#define FRAMESHARD_LOOP_SET(set, target, Lanes, Rows)                                                  \
  namespace set {                                                                                      \
  using Loops = AttentionLoops<Lanes, Rows>;                                                           \
  target void pack_keys(HeadRows<const float> k, HeadRows<const float> v, const AttentionSizes& sizes, \
                        float* key_panels, float* values) {                                            \
    Loops::pack_keys(k, v, sizes, key_panels, values);                                                 \
  }                                                                                                    \
  target void forward(const AttentionForward& work) {                                                  \
    Loops::forward(work);                                                                              \
  }                                                                                                    \
  target void backward(const AttentionBackward& work) {                                                \
    Loops::backward(work);                                                                             \
  }                                                                                                    \
  const LoopSet loops{#set,                                                                            \
                      Loops::panel,                                                                    \
                      Loops::query_block,                                                              \
                      Loops::key_block,                                                                \
                      Loops::backward_key_block,                                                       \
                      Loops::forward_scratch,                                                          \
                      Loops::backward_scratch,                                                         \
                      pack_keys,                                                                       \
                      forward,                                                                         \
                      backward};                                                                       \
  }

FRAMESHARD_LOOP_SET(plain, , 4, 4)
#if defined(__x86_64__) && defined(__GNUC__)
FRAMESHARD_LOOP_SET(avx2, [[gnu::target("avx2,fma")]], 8, 6)
FRAMESHARD_LOOP_SET(avx512, [[gnu::target("avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512")]],
                    16, 12)
#endif

// The fastest first.
std::vector<const LoopSet*> available() {
  std::vector<const LoopSet*> sets;
#if defined(__x86_64__) && defined(__GNUC__)
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    sets.push_back(&avx512::loops);
  }
  if (fma) sets.push_back(&avx2::loops);
#endif
  sets.push_back(&plain::loops);
  return sets;
}

const LoopSet& find(const std::string& name) {
  static const std::vector<const LoopSet*> sets = available();
  for (const LoopSet* set : sets) {
    if (name.empty() || name == set->name) return *set;
  }
  fail(ExitCode::internal, "attention: no loops called {} on this processor", name);
}

int64_t up_to(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

AttentionSizes sizes_of(const at::Tensor& q, const at::Tensor& k, const LoopSet& loops, int64_t key_block) {
  const int64_t head_dim = q.size(3);
  return {.head_dim = head_dim,
          .dim = up_to(head_dim, loops.panel),
          .queries = up_to(q.size(1), loops.query_block),
          .keys = up_to(k.size(1), key_block),
          .scale = float(1.0 / std::sqrt(double(head_dim)))};
}

// Head number `head` of all batches' heads.
HeadRows<const float> head_of(const at::Tensor& x, int64_t head) {
  const int64_t heads = x.size(2);
  return {x.const_data_ptr<float>() + head / heads * x.stride(0) + head % heads * x.stride(2), x.stride(1),
          x.size(1)};
}
HeadRows<float> writable_head_of(const at::Tensor& x, int64_t head) {
  const HeadRows<const float> rows = head_of(x, head);
  return {const_cast<float*>(rows.data), rows.stride, rows.rows};
}

at::Tensor with_side_by_side(const at::Tensor& x) {
  return x.stride(3) == 1 || x.size(3) == 1 ? x : x.contiguous();
}

at::Tensor floats(int64_t count) {
  return at::empty({count}, at::kFloat);
}

const float* bias_of(const at::Tensor& bias) {
  return bias.defined() ? bias.const_data_ptr<float>() : nullptr;
}

void check_shapes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias) {
  require(q.dim() == 4 && k.sizes() == v.sizes() && k.dim() == 4 && q.size(0) == k.size(0) &&
              q.size(2) == k.size(2) && q.size(3) == k.size(3) && k.size(1) > 0,
          "attention: q [{}], k [{}], v [{}]", fmt::join(q.sizes(), ", "), fmt::join(k.sizes(), ", "),
          fmt::join(v.sizes(), ", "));
  require(!bias.defined() || (bias.numel() == k.size(1) && bias.is_contiguous()),
          "attention: a bias of {} elements for {} keys", bias.defined() ? bias.numel() : 0, k.size(1));
}

struct Attention : torch::autograd::Function<Attention> {
  using Context = torch::autograd::AutogradContext;
  using Variables = torch::autograd::variable_list;

  // The bias comes as a pointer: an undefined tensor cannot be an input of a Function.
  static at::Tensor forward(Context* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor* bias) {
    auto [output, sums] = attention(q, k, v, *bias);
    context->save_for_backward({q, k, v, *bias, output, sums});
    return output;
  }

  static Variables backward(Context* context, const Variables& gradients) {
    const Variables saved = context->get_saved_variables();
    const auto g =
        attention_backward(gradients[0], saved[0], saved[1], saved[2], saved[3], {saved[4], saved[5]});
    return {g.q, g.k, g.v, {}};
  }
};

}  // namespace

std::vector<std::string> attention_loops() {
  std::vector<std::string> names;
  for (const LoopSet* set : available()) names.emplace_back(set->name);
  return names;
}

bool takes_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  auto taken = [](const at::Tensor& x) {
    return x.is_cpu() && x.scalar_type() == at::kFloat && x.dim() == 4;
  };
  return taken(q) && taken(k) && taken(v) && k.size(1) > 0 && q.size(3) > 0;
}

std::pair<at::Tensor, at::Tensor> attention(const at::Tensor& q_any, const at::Tensor& k_any,
                                            const at::Tensor& v_any, const at::Tensor& bias,
                                            const std::string& name) {
  check_shapes(q_any, k_any, v_any, bias);
  const LoopSet& loops = find(name);
  const at::Tensor q = with_side_by_side(q_any), k = with_side_by_side(k_any), v = with_side_by_side(v_any);
  const AttentionSizes sizes = sizes_of(q, k, loops, loops.key_block);
  const at::Tensor output = at::empty(q.sizes(), q.options());
  const at::Tensor sums = at::empty({q.size(0), q.size(2), q.size(1)}, q.options());
  const int64_t heads = q.size(0) * q.size(2), blocks = sizes.queries / loops.query_block,
                packed = sizes.keys * sizes.dim;
  // As many heads at a time as there are threads: all of them share the blocks of these, and no more are
  // packed at once.
  const int64_t together = std::min<int64_t>(heads, at::get_num_threads());
  const at::Tensor key_panels = floats(together * packed), values = floats(together * packed);
  for (int64_t first = 0; first < heads; first += together) {
    const int64_t count = std::min(together, heads - first);
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        loops.pack_keys(head_of(k, first + i), head_of(v, first + i), sizes,
                        key_panels.data_ptr<float>() + i * packed, values.data_ptr<float>() + i * packed);
      }
    });
    at::parallel_for(0, count * blocks, 1, [&](int64_t begin, int64_t end) {
      const at::Tensor scratch = floats(loops.forward_scratch(sizes.dim));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t here = i / blocks, head = first + here, row = i % blocks * loops.query_block;
        const int64_t rows = std::min(loops.query_block, q.size(1) - row);
        const HeadRows<const float> queries = head_of(q, head);
        const HeadRows<float> outputs = writable_head_of(output, head);
        loops.forward({.sizes = sizes,
                       .q = {queries.row(row), queries.stride, rows},
                       .key_count = k.size(1),
                       .key_panels = key_panels.const_data_ptr<float>() + here * packed,
                       .values = values.const_data_ptr<float>() + here * packed,
                       .bias = bias_of(bias),
                       .output = {outputs.row(row), outputs.stride, rows},
                       .sums = sums.data_ptr<float>() + head * q.size(1) + row,
                       .scratch = scratch.data_ptr<float>()});
      }
    });
  }
  return {output, sums};
}

AttentionKernel::Gradients attention_backward(const at::Tensor& output_gradient, const at::Tensor& q_any,
                                              const at::Tensor& k_any, const at::Tensor& v_any,
                                              const at::Tensor& bias,
                                              const std::pair<at::Tensor, at::Tensor>& output_and_sums,
                                              const std::string& name) {
  check_shapes(q_any, k_any, v_any, bias);
  const LoopSet& loops = find(name);
  const at::Tensor q = with_side_by_side(q_any), k = with_side_by_side(k_any), v = with_side_by_side(v_any),
                   gy = with_side_by_side(output_gradient), output = with_side_by_side(output_and_sums.first),
                   sums = output_and_sums.second.contiguous();
  const AttentionSizes sizes = sizes_of(q, k, loops, loops.backward_key_block);
  const AttentionKernel::Gradients g{.q = at::empty(q.sizes(), q.options()),
                                     .k = at::empty(k.sizes(), k.options()),
                                     .v = at::empty(v.sizes(), v.options())};
  at::parallel_for(0, q.size(0) * q.size(2), 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = floats(loops.backward_scratch(sizes));
    for (int64_t head = begin; head < end; ++head) {
      loops.backward({.sizes = sizes,
                      .q = head_of(q, head),
                      .k = head_of(k, head),
                      .v = head_of(v, head),
                      .output = head_of(output, head),
                      .gy = head_of(gy, head),
                      .bias = bias_of(bias),
                      .sums = sums.const_data_ptr<float>() + head * q.size(1),
                      .gq = writable_head_of(g.q, head),
                      .gk = writable_head_of(g.k, head),
                      .gv = writable_head_of(g.v, head),
                      .scratch = scratch.data_ptr<float>()});
    }
  });
  return g;
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias) {
  const bool wanted =
      c10::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  return wanted ? Attention::apply(q, k, v, &bias) : attention(q, k, v, bias).first;
}

}  // namespace frameshard::cpu
