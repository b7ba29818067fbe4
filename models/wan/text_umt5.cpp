#include "models/wan/text_umt5.h"

#include <cmath>

#include "core/error.h"
#include "core/io/json_file.h"
#include "core/io/prompt_clean.h"
#include "models/common/layers.h"

namespace frameshard::wan {

Umt5Config Umt5Config::read(const std::filesystem::path& config_json) {
  const JsonReader json(config_json);
  json.expect<std::string>("model_type", "umt5");
  json.expect<std::string>("feed_forward_proj", "gated-gelu");
  return {.width = json.get_between("d_model", 1, 1 << 20),
          .ffn_dim = json.get_between("d_ff", 1, 1 << 24),
          .head_dim = json.get_between("d_kv", 1, 65536),
          .heads = json.get_between("num_heads", 1, 65536),
          .layers = json.get_between("num_layers", 1, 4096),
          .vocabulary = json.get_between("vocab_size", 1, 1 << 28),
          .buckets = json.get_or<int64_t>("relative_attention_num_buckets", 32),
          .max_distance = json.get_or<int64_t>("relative_attention_max_distance", 128),
          .eps = json.get_or("layer_norm_epsilon", 1e-6)};
}

Umt5::Umt5(const Umt5Config& config) : config_(config), layers_(size_t(config.layers)) {
  const int64_t d = config.width, inner = config.heads * config.head_dim, f = config.ffn_dim;
  weights_.add("shared.weight", {config.vocabulary, d}, embedding_);
  weights_.add_alias("encoder.embed_tokens.weight");
  for (size_t i = 0; i < layers_.size(); ++i) {
    Umt5Layer& layer = layers_[i];
    const std::string attention = fmt::format("encoder.block.{}.layer.0.", i),
                      ffn = fmt::format("encoder.block.{}.layer.1.", i);
    weights_.add_layer_without_bias(attention + "SelfAttention.q", {inner, d}, layer.q);
    weights_.add_layer_without_bias(attention + "SelfAttention.k", {inner, d}, layer.k);
    weights_.add_layer_without_bias(attention + "SelfAttention.v", {inner, d}, layer.v);
    weights_.add_layer_without_bias(attention + "SelfAttention.o", {d, inner}, layer.out);
    weights_.add(attention + "SelfAttention.relative_attention_bias.weight", {config.buckets, config.heads},
                 layer.position_bias);
    weights_.add(attention + "layer_norm.weight", {d}, layer.attention_norm);
    weights_.add_layer_without_bias(ffn + "DenseReluDense.wi_0", {f, d}, layer.ffn_gate);
    weights_.add_layer_without_bias(ffn + "DenseReluDense.wi_1", {f, d}, layer.ffn_in);
    weights_.add_layer_without_bias(ffn + "DenseReluDense.wo", {d, f}, layer.ffn_out);
    weights_.add(ffn + "layer_norm.weight", {d}, layer.ffn_norm);
  }
  weights_.add("encoder.final_layer_norm.weight", {d}, final_norm_);
}

// Buckets of the distance key - query: half for each direction, exact up to a quarter of them, then
// logarithmic (T5, https://arxiv.org/abs/1910.10683, section 2.1). [L, L]
at::Tensor Umt5::position_buckets(int64_t length) const {
  const int64_t half = config_.buckets / 2, exact = half / 2;
  const at::Tensor positions = at::arange(length, at::kLong);
  const at::Tensor distance = positions.unsqueeze(0) - positions.unsqueeze(1);
  const at::Tensor magnitude = distance.abs();
  const double scale = std::log(double(config_.max_distance) / double(exact));
  const at::Tensor logarithmic =
      exact + ((magnitude.to(at::kFloat) / double(exact)).log() / scale * double(half - exact)).to(at::kLong);
  return distance.gt(0).to(at::kLong) * half +
         at::where(magnitude < exact, magnitude, logarithmic.clamp_max(half - 1));
}

at::Tensor Umt5::attend(const Umt5Layer& layer, const at::Tensor& x, const at::Tensor& buckets) const {
  auto heads = [&](const Linear& part) {  // [1, L, d] -> [1, H, L, D]
    return apply(part, x).unflatten(-1, {config_.heads, config_.head_dim}).transpose(1, 2);
  };
  const at::Tensor bias =
      at::embedding(layer.position_bias, buckets).permute({2, 0, 1}).unsqueeze(0);  // [1, H, L, L]
  // T5 does not scale its scores.
  const at::Tensor scores = heads(layer.q).matmul(heads(layer.k).transpose(2, 3)) + bias;
  const at::Tensor shares = at::softmax(scores.to(at::kFloat), -1).to(x.scalar_type());
  return apply(layer.out, shares.matmul(heads(layer.v)).transpose(1, 2).flatten(2));
}

at::Tensor Umt5::feed_forward(const Umt5Layer& layer, const at::Tensor& x) const {
  return apply(layer.ffn_out, at::gelu(apply(layer.ffn_gate, x), "tanh") * apply(layer.ffn_in, x));
}

at::Tensor Umt5::encode(const std::string& prompt, int64_t max_length) const {
  require(tokenizer_.has_value(), "the text encoder has no tokenizer");
  const TokenIds tokens = tokenizer_->encode(clean_prompt(prompt), max_length);
  // Padding is masked in the encoder and set to 0 after it, so it need not be computed at all.
  const at::Tensor ids =
      at::tensor(std::vector<int64_t>(tokens.ids.begin(), tokens.ids.begin() + tokens.length), at::kLong);
  if (ids.max().item<int64_t>() >= config_.vocabulary) {
    fail(ExitCode::bad_data,
         "the tokenizer gives id {} and the text encoder knows {}: they are of different models",
         ids.max().item<int64_t>(), config_.vocabulary);
  }
  const at::Tensor buckets = position_buckets(tokens.length).to(embedding_.device());
  at::Tensor x = at::embedding(embedding_, ids.to(embedding_.device())).unsqueeze(0);
  for (const Umt5Layer& layer : layers_) {
    x = x + attend(layer, rms_norm(x, layer.attention_norm, config_.eps), buckets);
    x = x + feed_forward(layer, rms_norm(x, layer.ffn_norm, config_.eps));
  }
  x = rms_norm(x, final_norm_, config_.eps);
  return at::constant_pad_nd(x, {0, 0, 0, max_length - tokens.length});
}

}  // namespace frameshard::wan
