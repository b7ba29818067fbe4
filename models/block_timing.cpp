#include "models/block_timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <c10/core/GradMode.h>

#include "core/device.h"
#include "core/error.h"
#include "models/common/attention_kernel.h"
#include "models/common/fused.h"
#include "models/common/layers.h"

namespace frameshard {
namespace {

constexpr double eps = 1e-6;

// Values repeat after a while: drawing each of a large model's weights would take longer than what is
// measured.
at::Tensor random(at::IntArrayRef shape, const at::TensorOptions& options) {
  constexpr int64_t period = 65521;  // a prime, so that no two rows of a weight are the same
  const int64_t count = c10::multiply_integers(shape);
  const at::Tensor pattern =
      at::rand({std::min(count, period)}, options.dtype(at::kFloat)).sub_(0.5).mul_(0.1);
  return pattern.to(options).repeat({(count + period - 1) / period}).narrow(0, 0, count).view(shape);
}

// Models other than this one differ in the order of the parts and in their norms, which cost little.
class Block {
 public:
  Block(const BlockShape& shape, const at::TensorOptions& options) : shape_(shape) {
    const int64_t d = shape.heads * shape.head_dim, f = shape.ffn_dim;
    const auto wide = options.dtype(at::kFloat);
    joined_ = {random({3 * d, d}, options), random({3 * d}, options)};
    square_ = {joined_.weight.narrow(0, 0, d), joined_.bias.narrow(0, 0, d)};
    ffn_in_ = {random({f, d}, options), random({f}, options)};
    ffn_out_ = {ffn_in_.weight.view({d, f}), joined_.bias.narrow(0, 0, d)};
    norm_ = random({d}, options), modulation_ = random({1, 1, d}, wide);
    const at::Tensor angles = random({shape.rank_tokens, shape.head_dim / 2}, wide);
    rope_ = at::polar(at::ones_like(angles), angles);
    x_ = random({1, shape.rank_tokens, d}, options);
    whole_ = random({1, shape.tokens, shape.rank_heads, shape.head_dim}, options);
    text_ = random({1, shape.text_tokens, shape.heads, shape.head_dim}, options);
  }

  void run() const {
    const at::Tensor part = gated_sum(x_.clone(), self_attention(), modulation_);
    const at::Tensor both = part + cross_attention(part);
    const at::Tensor normed = norm_modulate(both, modulation_, modulation_, eps);
    gated_sum(both, apply(ffn_out_, apply_gelu(ffn_in_, normed)), modulation_);
  }

 private:
  at::Tensor by_heads(const at::Tensor& x, const at::Tensor& rope) const {
    return rms_norm_rotate(x, norm_, shape_.heads, rope, eps);
  }

  // Between the two halves the ranks exchange tokens for heads: what comes back is as large as q.
  at::Tensor self_attention() const {
    const auto qkv = apply(joined_, norm_modulate(x_, modulation_, modulation_, eps)).chunk(3, -1);
    const at::Tensor q = by_heads(qkv[0], rope_), k = by_heads(qkv[1], rope_);
    sdpa_kernel().attend(whole_, whole_, whole_);
    return apply(square_, q.flatten(2));
  }

  at::Tensor cross_attention(const at::Tensor& x) const {
    const at::Tensor normed = layer_norm_float32(x, norm_.to(at::kFloat), norm_.to(at::kFloat), eps);
    const at::Tensor q = by_heads(apply(square_, normed.to(x.scalar_type())), {});
    return apply(square_, sdpa_kernel().attend(q, text_, text_).flatten(2));
  }

  BlockShape shape_;
  Linear joined_, square_, ffn_in_, ffn_out_;
  at::Tensor norm_, modulation_, rope_, x_, whole_, text_;
};

// Of so many runs one after another, each.
double seconds_of(const Block& block, int64_t runs, const at::Device& device) {
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < runs; ++i) block.run();
  synchronize(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / double(runs);
}

}  // namespace

// Products: q, k, v and the output, query and output of the text's attention, the feed-forward's two.
double BlockShape::operations() const {
  const double d = double(heads * head_dim), mine = double(rank_tokens), all = double(tokens);
  return mine * (12 * d * d + 4 * d * double(ffn_dim) + 4 * double(text_tokens) * d) +
         4 * all * all * double(rank_heads * head_dim);
}

BlockShape block_shape(const ModelFacts& model, int64_t tokens, int64_t text_tokens, int ranks,
                       double most_operations) {
  require(tokens > 0 && ranks > 0, "a block of {} tokens on {} ranks", tokens, ranks);
  const auto part = [&](int64_t whole) { return std::max<int64_t>(1, (whole + ranks - 1) / ranks); };
  BlockShape shape{.heads = model.heads,
                   .head_dim = model.head_dim,
                   .ffn_dim = model.ffn_dim,
                   .tokens = tokens,
                   .rank_tokens = part(tokens),
                   .rank_heads = part(model.heads),
                   .text_tokens = text_tokens};
  while (shape.operations() > most_operations && shape.rank_tokens > 1) {
    shape.tokens = std::max<int64_t>(1, shape.tokens * 3 / 4);
    shape.rank_tokens = part(shape.tokens);
  }
  return shape;
}

double most_block_operations(const at::Device& device) {
  return device.is_cuda() ? 2e13 : 2e10;
}

double block_seconds(const BlockShape& shape, const at::Device& device, at::ScalarType dtype) {
  constexpr double sample = 0.15, enough = 0.9;  // seconds
  constexpr int least_samples = 3;
  const c10::NoGradGuard no_grad;
  const Block block(shape, at::TensorOptions().device(device).dtype(dtype));
  synchronize(device);
  const double first = seconds_of(block, 1, device);
  // A sample is long against the slices in which the system shares a core: the time that others have of it
  // counts.
  const double again = first < sample ? seconds_of(block, 1, device) : first;
  const auto runs = int64_t(std::max(1.0, std::ceil(sample / std::max(again, 1e-6))));
  std::vector<double> times;
  for (double spent = first; int(times.size()) < least_samples || spent < enough;) {
    if (!times.empty() && spent + sample > 2 * enough) break;
    times.push_back(seconds_of(block, runs, device));
    spent += times.back() * double(runs);
  }
  std::nth_element(times.begin(), times.begin() + std::ptrdiff_t(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace frameshard
