// The umT5 text encoder (transformers' UMT5EncoderModel): https://arxiv.org/abs/2304.09151
#pragma once

#include <filesystem>
#include <optional>

#include "core/io/tokenizer.h"
#include "models/parts.h"
#include "models/weights.h"

namespace frameshard::wan {

/// text_encoder/config.json
struct Umt5Config {
  int64_t width, ffn_dim, head_dim, heads, layers, vocabulary, buckets, max_distance;
  double eps;
  static Umt5Config read(const std::filesystem::path& config_json);
};

struct Umt5Layer {
  Linear q, k, v, out, ffn_gate, ffn_in, ffn_out;  // without biases
  at::Tensor position_bias, attention_norm, ffn_norm;
};

class Umt5 final : public TextEncoder {
 public:
  /// Lists the weights; encode() needs them loaded, and a tokenizer.
  explicit Umt5(const Umt5Config& config);
  void use_tokenizer(Tokenizer tokenizer) { tokenizer_ = std::move(tokenizer); }
  Umt5(const Umt5&) = delete;
  Umt5& operator=(const Umt5&) = delete;

  const WeightList& weights() const override { return weights_; }
  at::Tensor encode(const std::string& prompt, int64_t max_length) const override;

 private:
  at::Tensor attend(const Umt5Layer& layer, const at::Tensor& x, const at::Tensor& buckets) const;
  at::Tensor feed_forward(const Umt5Layer& layer, const at::Tensor& x) const;
  at::Tensor position_buckets(int64_t length) const;

  Umt5Config config_;
  std::optional<Tokenizer> tokenizer_;
  WeightList weights_;
  at::Tensor embedding_, final_norm_;
  std::vector<Umt5Layer> layers_;
};

}  // namespace frameshard::wan
