#include "launcher/lora.h"

#include "core/hash.h"
#include "models/lora.h"

namespace frameshard {
namespace {

std::string ranks_of(const std::vector<LoraLayer>& layers) {
  int64_t low = 0, high = 0;
  for (const LoraLayer& layer : layers) {
    if (!layer.a.defined()) continue;
    low = low == 0 ? layer.a.size(0) : std::min(low, layer.a.size(0));
    high = std::max(high, layer.a.size(0));
  }
  if (high == 0) return "differences alone";
  return low == high ? fmt::format("rank {}", low) : fmt::format("ranks {} to {}", low, high);
}

void add(LoraFacts& facts, const LoraConfig& file, const std::vector<LoraLayer>& layers) {
  for (const LoraLayer& layer : layers) {
    int64_t& values =
        layer.layer.starts_with(text_encoder_prefix) ? facts.text_encoder_values : facts.adapter_values;
    if (layer.a.defined() && !file.merge) values += layer.a.numel() + layer.b.numel();
    facts.changes_weights = facts.changes_weights || file.merge || layer.weight_difference.defined() ||
                            layer.bias_difference.defined();
  }
  facts.identity += file_hash(file.path) + " ";
  facts.notes.push_back(fmt::format("lora {}: {} layers, {}, scale {}{}", file.path, layers.size(),
                                    ranks_of(layers), file.scale, file.merge ? ", merged" : ""));
}

}  // namespace

LoraFacts check_lora(const std::vector<LoraConfig>& files, const Checkpoint& checkpoint) {
  LoraFacts facts;
  if (files.empty()) return facts;
  const auto denoiser = checkpoint.denoiser_without_weights();
  const auto text_encoder = checkpoint.text_encoder_without_weights();
  for (const LoraConfig& file : files) {
    add(facts, file, read_lora(file.path, denoiser->weights(), &text_encoder->weights()));
  }
  return facts;
}

void use_lora_files(const std::vector<LoraConfig>& files, const Checkpoint& checkpoint,
                    const Denoiser& denoiser) {
  if (files.empty()) return;
  const auto text_encoder = checkpoint.text_encoder_without_weights();
  for (const LoraConfig& file : files) {
    use_lora(denoiser_changes(read_lora(file.path, denoiser.weights(), &text_encoder->weights())),
             denoiser.weights(), {.scale = file.scale, .merge = file.merge});
  }
}

void use_lora_files(const std::vector<LoraConfig>& files, const Checkpoint& checkpoint,
                    const TextEncoder& text_encoder) {
  if (files.empty()) return;
  const auto denoiser = checkpoint.denoiser_without_weights();
  for (const LoraConfig& file : files) {
    use_lora(text_encoder_changes(read_lora(file.path, denoiser->weights(), &text_encoder.weights())),
             text_encoder.weights(), {.scale = file.scale, .merge = file.merge});
  }
}

}  // namespace frameshard
