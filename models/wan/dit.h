// Wan 2.1's video transformer (diffusers' WanTransformer3DModel): https://arxiv.org/abs/2503.20314
#pragma once

#include <filesystem>
#include <mutex>

#include "models/common/text_rows.h"
#include "models/parts.h"
#include "models/weights.h"
#include "parallel/plan.h"

namespace frameshard::wan {

/// transformer/config.json
struct DitConfig {
  int64_t heads, head_dim, layers, ffn_dim, in_channels, out_channels, text_dim, freq_dim;
  std::vector<int64_t> patch;  ///< frames, height, width
  bool cross_attention_norm;
  double eps;
  int64_t max_positions;

  int64_t width() const { return heads * head_dim; }
  /// 65 for settings that this version does not implement (image conditioning among them).
  static DitConfig read(const std::filesystem::path& config_json);
};

/// The transformer's numbers for a plan.
ModelFacts transformer_facts(const DitConfig& config, at::ScalarType dtype);

struct AttentionWeights {
  Linear q, k, v, out;
  Linear joined;  ///< q, k and v (self-attention) or k and v (cross-attention) as one layer
  at::Tensor norm_q, norm_k;
};

struct BlockWeights {
  AttentionWeights self, cross;
  at::Tensor cross_norm_weight, cross_norm_bias;
  Linear ffn_in, ffn_out;
  at::Tensor modulation;  ///< [1, 6, d]
};

class Dit final : public Denoiser {
 public:
  Dit(const DitConfig& config, at::ScalarType dtype);
  Dit(const Dit&) = delete;
  Dit& operator=(const Dit&) = delete;

  const WeightList& weights() const override { return weights_; }
  at::Tensor predict_for_training(const at::Tensor& latents, const at::Tensor& timestep,
                                  const at::Tensor& text, const ParallelSequence& sequence,
                                  const BlockRunner& runner) const override;

  at::ScalarType dtype() const override { return dtype_; }
  TextContext prepare(const at::Tensor& text) const override;
  using Denoiser::predict;
  at::Tensor predict(const at::Tensor& latents, const at::Tensor& timestep, const TextContext& text,
                     const ParallelSequence& sequence, StepCache* cache) const override;
  std::vector<double> modulation_changes(const at::Tensor& timesteps) const override;
  void quantize_linear() override;
  void move_to(const at::Device& device) override { move_weights(weights_, device); }
  int64_t token_count(at::IntArrayRef latent_shape) const override;
  std::vector<int64_t> latent_shape(int64_t frames, int64_t height, int64_t width) const override;

 private:
  struct Modulation;
  struct Time {
    at::Tensor embedded;    ///< [B, d]
    at::Tensor modulation;  ///< [B, 6, d] float32, which every block adds its own to
  };
  Time embed(const at::Tensor& timestep) const;
  Modulation modulate(const BlockWeights& block, const at::Tensor& time) const;
  at::Tensor self_attention(const BlockWeights& block, at::Tensor x, const at::Tensor& rope,
                            const ParallelSequence& sequence) const;
  /// One layer's part of a TextContext.
  struct TextKeys {
    at::Tensor k, v, weight;
  };
  TextRows embed_text(const at::Tensor& text) const;
  TextKeys text_keys(const BlockWeights& block, const TextRows& text) const;
  at::Tensor cross_attention(const BlockWeights& block, const at::Tensor& x, const TextKeys& text) const;
  at::Tensor feed_forward(const BlockWeights& block, const at::Tensor& x) const;
  at::Tensor by_heads(const at::Tensor& x) const;
  /// What is the same for all blocks of a pass but their text.
  struct Pass {
    at::Tensor time, rope;  ///< Time::modulation, and the rows of the position table that are this rank's
    const ParallelSequence& sequence;
  };
  at::Tensor run_block(const BlockWeights& block, at::Tensor x, const TextKeys& text, const Pass& pass) const;
  at::Tensor run_blocks(at::Tensor x, const TextContext& text, const Pass& pass) const;
  std::vector<int64_t> grid_of(const at::Tensor& latents) const;
  at::Tensor enter(const at::Tensor& latents, const ParallelSequence& sequence) const;
  at::Tensor leave(const at::Tensor& x, const at::Tensor& time, const std::vector<int64_t>& grid,
                   const ParallelSequence& sequence) const;
  void list_weights();
  at::Tensor rope(const std::vector<int64_t>& grid, const at::Device& device) const;

  DitConfig config_;
  at::ScalarType dtype_;
  WeightList weights_;
  Linear patch_embedding_, time_in_, time_out_, time_projection_, text_in_, text_out_, projection_;
  at::Tensor modulation_;  ///< [1, 2, d], of the output
  std::vector<BlockWeights> blocks_;

  // Position tables by device and grid. Kept: they are the same at every step, and a recorded graph reads its
  // own.
  mutable std::mutex rope_mutex_;
  mutable std::map<std::string, at::Tensor> rope_tables_;
};

}  // namespace frameshard::wan
