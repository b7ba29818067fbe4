#include "models/wan/dit.h"

#include "core/error.h"
#include "core/io/json_file.h"
#include "models/common/attention_kernel.h"
#include "models/common/float8.h"
#include "models/common/fused.h"
#include "models/common/layers.h"
#include "models/common/rope.h"
#include "models/common/step_cache.h"
#include "models/common/text_rows.h"

namespace frameshard::wan {

DitConfig DitConfig::read(const std::filesystem::path& config_json) {
  const JsonReader json(config_json);
  json.expect<std::string>("_class_name", "WanTransformer3DModel");
  json.expect<std::string>("qk_norm", "rms_norm_across_heads");
  for (const char* image_key : {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"}) {
    if (json.has(image_key)) {
      fail(ExitCode::bad_data,
           "{}: {} is set: image-to-video models are not supported yet; use a text-to-video model",
           config_json.string(), image_key);
    }
  }
  DitConfig config{.heads = json.get_between("num_attention_heads", 1, 4096),
                   .head_dim = json.get_between("attention_head_dim", 2, 65536),
                   .layers = json.get_between("num_layers", 1, 4096),
                   .ffn_dim = json.get_between("ffn_dim", 1, 1 << 24),
                   .in_channels = json.get_between("in_channels", 1, 65536),
                   .out_channels = json.get_or<int64_t>("out_channels", json.get<int64_t>("in_channels")),
                   .text_dim = json.get_between("text_dim", 1, 1 << 24),
                   .freq_dim = json.get_between("freq_dim", 2, 1 << 24),
                   .patch = json.get_or<std::vector<int64_t>>("patch_size", {1, 2, 2}),
                   .cross_attention_norm = json.get_or("cross_attn_norm", true),
                   .eps = json.get_or("eps", 1e-6),
                   .max_positions = json.get_or<int64_t>("rope_max_seq_len", 1024)};
  if (config.in_channels != config.out_channels) {
    fail(ExitCode::bad_data, "{}: in_channels {} and out_channels {} differ: not a text-to-video model",
         config_json.string(), config.in_channels, config.out_channels);
  }
  if (config.head_dim % 2 != 0 || config.freq_dim % 2 != 0 || config.patch != std::vector<int64_t>{1, 2, 2}) {
    fail(ExitCode::bad_data, "{}: attention_head_dim and freq_dim must be even, and patch_size [1, 2, 2]",
         config_json.string());
  }
  return config;
}

ModelFacts transformer_facts(const DitConfig& config, at::ScalarType dtype) {
  return {.name = "Wan",
          .heads = config.heads,
          .head_dim = config.head_dim,
          .layers = config.layers,
          .ffn_dim = config.ffn_dim,
          .latent_channels = config.in_channels,
          .patch_frames = config.patch[0],
          .patch_height = config.patch[1],
          .patch_width = config.patch[2],
          .max_positions = config.max_positions,
          .text_dim = config.text_dim,
          .denoiser_bytes = Dit(config, dtype).weights().bytes(dtype),
          .element_bytes = int64_t(c10::elementSize(dtype))};
}

// Shift, scale and gate before and after each of the two parts of a block, [B, 1, d] each, float32.
struct Dit::Modulation {
  at::Tensor attention_shift, attention_scale, attention_gate, ffn_shift, ffn_scale, ffn_gate;
};

Dit::Dit(const DitConfig& config, at::ScalarType dtype)
    : config_(config), dtype_(dtype), blocks_(size_t(config.layers)) {
  list_weights();
}

void Dit::list_weights() {
  const int64_t d = config_.width(), f = config_.ffn_dim, c = config_.in_channels;
  const int64_t patch = c10::multiply_integers(config_.patch);
  weights_.add_layer("patch_embedding", {d, c, config_.patch[0], config_.patch[1], config_.patch[2]},
                     patch_embedding_);
  const std::string embedder = "condition_embedder.";
  weights_.add_layer(embedder + "time_embedder.linear_1", {d, config_.freq_dim}, time_in_,
                     /*keep_float32=*/true);
  weights_.add_layer(embedder + "time_embedder.linear_2", {d, d}, time_out_, /*keep_float32=*/true);
  weights_.add_layer(embedder + "time_proj", {6 * d, d}, time_projection_);
  weights_.add_layer(embedder + "text_embedder.linear_1", {d, config_.text_dim}, text_in_);
  weights_.add_layer(embedder + "text_embedder.linear_2", {d, d}, text_out_);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    BlockWeights& block = blocks_[i];
    const std::string name = fmt::format("blocks.{}.", i);
    weights_.add_float32(name + "scale_shift_table", {1, 6, d}, block.modulation);
    for (auto [part, attention] : {std::pair("attn1.", &block.self), std::pair("attn2.", &block.cross)}) {
      weights_.add_layer(name + part + "to_q", {d, d}, attention->q);
      weights_.add_layer(name + part + "to_k", {d, d}, attention->k);
      weights_.add_layer(name + part + "to_v", {d, d}, attention->v);
      weights_.add_layer(name + part + "to_out.0", {d, d}, attention->out);
      weights_.add(name + part + "norm_q.weight", {d}, attention->norm_q);
      weights_.add(name + part + "norm_k.weight", {d}, attention->norm_k);
    }
    weights_.stack({&block.self.q, &block.self.k, &block.self.v}, block.self.joined);
    weights_.stack({&block.cross.k, &block.cross.v}, block.cross.joined);
    if (config_.cross_attention_norm) {
      weights_.add_float32(name + "norm2.weight", {d}, block.cross_norm_weight);
      weights_.add_float32(name + "norm2.bias", {d}, block.cross_norm_bias);
    }
    weights_.add_layer(name + "ffn.net.0.proj", {f, d}, block.ffn_in);
    weights_.add_layer(name + "ffn.net.2", {d, f}, block.ffn_out);
  }
  weights_.add_float32("scale_shift_table", {1, 2, d}, modulation_);
  weights_.add_layer("proj_out", {c * patch, d}, projection_);
  weights_.ignore_suffix("norm_added_q.weight");  // in some files, used by no model
}

int64_t Dit::token_count(at::IntArrayRef shape) const {
  return shape[1] / config_.patch[0] * (shape[2] / config_.patch[1]) * (shape[3] / config_.patch[2]);
}

std::vector<int64_t> Dit::latent_shape(int64_t frames, int64_t height, int64_t width) const {
  return {config_.in_channels, (frames - 1) / 4 + 1, height / 8, width / 8};
}

// [B, S, d] -> [B, S, H, D]
at::Tensor Dit::by_heads(const at::Tensor& x) const {
  return x.unflatten(-1, {config_.heads, config_.head_dim});
}

// [B, T, text_dim] -> [B, T', d] and the weights of its rows.
TextRows Dit::embed_text(const at::Tensor& text) const {
  TextRows rows = text_rows(text.to(dtype_), dtype_);
  rows.text = apply(text_out_, apply_gelu(text_in_, rows.text));
  return rows;
}

Dit::TextKeys Dit::text_keys(const BlockWeights& block, const TextRows& text) const {
  const auto kv = apply(block.cross.joined, text.text).chunk(2, -1);
  return {rms_norm_rotate(kv[0], block.cross.norm_k, config_.heads, {}, config_.eps),
          by_heads(kv[1]).contiguous(), text.weight};
}

TextContext Dit::prepare(const at::Tensor& text) const {
  const TextRows embedded = embed_text(text);
  TextContext context{.k = {}, .v = {}, .weight = embedded.weight};
  for (const BlockWeights& block : blocks_) {
    TextKeys keys = text_keys(block, embedded);
    context.k.push_back(std::move(keys.k));
    context.v.push_back(std::move(keys.v));
  }
  return context;
}

// Embeddings and the output's projection keep their precision: they cost next to nothing. The keys and values
// of the text are computed once a request.
void Dit::quantize_linear() {
  for (BlockWeights& block : blocks_) {
    // Views of the joined layers would keep their weights alive.
    for (Linear* part : {&block.self.q, &block.self.k, &block.self.v}) *part = {};
    for (Linear* layer : {&block.self.joined, &block.self.out, &block.cross.q, &block.cross.out,
                          &block.ffn_in, &block.ffn_out}) {
      quantize(*layer);
    }
  }
}

Dit::Modulation Dit::modulate(const BlockWeights& block, const at::Tensor& time) const {
  const auto parts = (block.modulation + time).chunk(6, 1);  // time: [B, 6, d], float32
  return {parts[0], parts[1], parts[2], parts[3], parts[4], parts[5]};
}

at::Tensor Dit::self_attention(const BlockWeights& block, at::Tensor x, const at::Tensor& rope,
                               const ParallelSequence& sequence) const {
  auto qkv = apply(block.self.joined, x).chunk(3, -1);
  x.reset();  // so much less memory in the exchange
  Qkv mine{.q = rms_norm_rotate(qkv[0], block.self.norm_q, config_.heads, rope, config_.eps),
           .k = rms_norm_rotate(qkv[1], block.self.norm_k, config_.heads, rope, config_.eps),
           .v = by_heads(qkv[2])};
  qkv.clear();
  return apply(block.self.out, sequence.self_attention(std::move(mine), sdpa_kernel()).flatten(2));
}

// Text is whole on every rank, so cross-attention moves nothing.
at::Tensor Dit::cross_attention(const BlockWeights& block, const at::Tensor& x, const TextKeys& text) const {
  const at::Tensor normed =
      config_.cross_attention_norm
          ? layer_norm_float32(x, block.cross_norm_weight, block.cross_norm_bias, config_.eps).to(dtype_)
          : x;
  const at::Tensor q =
      rms_norm_rotate(apply(block.cross.q, normed), block.cross.norm_q, config_.heads, {}, config_.eps);
  return apply(block.cross.out, attend_weighted(q, text.k, text.v, text.weight).flatten(2));
}

at::Tensor Dit::feed_forward(const BlockWeights& block, const at::Tensor& x) const {
  return apply(block.ffn_out, apply_gelu(block.ffn_in, x));
}

at::Tensor Dit::rope(const std::vector<int64_t>& grid, const at::Device& device) const {
  std::lock_guard lock(rope_mutex_);
  at::Tensor& table = rope_tables_[fmt::format("{} {}", device.str(), fmt::join(grid, "x"))];
  if (!table.defined()) table = rope_table(grid, config_.head_dim, config_.max_positions, device);
  return table;
}

Dit::Time Dit::embed(const at::Tensor& timestep) const {
  const at::Tensor sinusoid = timestep_sinusoid(timestep, config_.freq_dim);
  const at::Tensor embedded = apply(time_out_, at::silu(apply(time_in_, sinusoid))).to(dtype_);
  return {embedded, apply(time_projection_, at::silu(embedded)).unflatten(1, {6, -1}).to(at::kFloat)};
}

std::vector<double> Dit::modulation_changes(const at::Tensor& timesteps) const {
  std::vector<double> changes;
  at::Tensor former;
  for (const at::Tensor& timestep : timesteps.split(1)) {
    const at::Tensor now = embed(timestep).modulation;
    if (former.defined()) {
      changes.push_back(((now - former).abs().sum() / former.abs().sum()).item<double>());
    }
    former = now;
  }
  return changes;
}

// x [B, S_mine, d] -> the same; may use the memory of x.
at::Tensor Dit::run_block(const BlockWeights& block, at::Tensor x, const TextKeys& text,
                          const Pass& pass) const {
  const Modulation m = modulate(block, pass.time);
  // No part's intermediate results outlive it.
  x = gated_sum(x,
                self_attention(block, norm_modulate(x, m.attention_scale, m.attention_shift, config_.eps),
                               pass.rope, pass.sequence),
                m.attention_gate);
  x = x + cross_attention(block, x, text);
  return gated_sum(x, feed_forward(block, norm_modulate(x, m.ffn_scale, m.ffn_shift, config_.eps)),
                   m.ffn_gate);
}

at::Tensor Dit::run_blocks(at::Tensor x, const TextContext& text, const Pass& pass) const {
  for (size_t i = 0; i < blocks_.size(); ++i) {
    x = run_block(blocks_[i], std::move(x), {text.k[i], text.v[i], text.weight}, pass);
  }
  return x;
}

std::vector<int64_t> Dit::grid_of(const at::Tensor& latents) const {
  return {latents.size(2) / config_.patch[0], latents.size(3) / config_.patch[1],
          latents.size(4) / config_.patch[2]};
}

// [B, C, F, h, w] -> [B, S_mine, d]; a convolution whose stride is its kernel is a product over patches.
at::Tensor Dit::enter(const at::Tensor& latents, const ParallelSequence& sequence) const {
  const at::Tensor patches = sequence.enter(patchify(latents.to(dtype_), config_.patch));
  return apply({.weight = patch_embedding_.weight.flatten(1),
                .bias = patch_embedding_.bias,
                .adapters = patch_embedding_.adapters},
               patches);
}

at::Tensor Dit::leave(const at::Tensor& x, const at::Tensor& time, const std::vector<int64_t>& grid,
                      const ParallelSequence& sequence) const {
  const auto parts = (modulation_ + time.unsqueeze(1)).chunk(2, 1);  // shift, scale: [B, 1, d]
  const at::Tensor normed = norm_modulate(x, parts[1], parts[0], config_.eps);
  return unpatchify(sequence.leave(apply(projection_, normed)), config_.patch, grid);
}

at::Tensor Dit::predict(const at::Tensor& latents, const at::Tensor& timestep, const TextContext& text,
                        const ParallelSequence& sequence, StepCache* cache) const {
  const auto grid = grid_of(latents);
  at::Tensor x = enter(latents, sequence);
  const Time time = embed(timestep);
  if (cache && cache->reuse) {
    x = x + cache->residual;
  } else {
    if (cache) cache->residual = x.clone();  // blocks may use the memory of x
    x = run_blocks(std::move(x), text,
                   {time.modulation, sequence.positions(rope(grid, latents.device())), sequence});
    if (cache) at::sub_out(cache->residual, x, cache->residual);
  }
  return leave(x, time.embedded, grid, sequence);
}

at::Tensor Dit::predict_for_training(const at::Tensor& latents, const at::Tensor& timestep,
                                     const at::Tensor& text, const ParallelSequence& sequence,
                                     const BlockRunner& runner) const {
  const auto grid = grid_of(latents);
  const at::Tensor positions = sequence.positions(rope(grid, latents.device()));
  at::Tensor x = enter(latents, sequence);
  const Time time = embed(timestep);
  const TextRows embedded = embed_text(text);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    // A block makes its own keys and values of the text, so that all use of its weights lies within it.
    const BlockRunner::Block block = [this, i, positions, &sequence,
                                      weight = embedded.weight](const BlockRunner::Inputs& in) {
      return run_block(blocks_[i], in[0], text_keys(blocks_[i], {in[2], weight}),
                       {in[1], positions, sequence});
    };
    x = runner.run(i, block, {x, time.modulation, embedded.text});
  }
  return leave(x, time.embedded, grid, sequence);
}

}  // namespace frameshard::wan
