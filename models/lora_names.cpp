#include "models/lora_names.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace frameshard {
namespace {

constexpr const char* kohya_prefix = "lora_unet_";
constexpr const char* comfyui_prefix = "diffusion_model.";
constexpr const char* diffusers_prefix = "transformer.";
constexpr const char* comfyui_text_prefix = "text_encoders.umt5xxl.transformer.";
constexpr const char* kohya_text_prefixes[] = {"lora_te_", "lora_te1_"};

const std::pair<const char*, const char*> original_parts[] = {
    {"condition_embedder.time_embedder.linear_1", "time_embedding.0"},
    {"condition_embedder.time_embedder.linear_2", "time_embedding.2"},
    {"condition_embedder.text_embedder.linear_1", "text_embedding.0"},
    {"condition_embedder.text_embedder.linear_2", "text_embedding.2"},
    {"condition_embedder.time_proj", "time_projection.1"},
    {".attn1.", ".self_attn."},
    {".attn2.", ".cross_attn."},
    {".to_q", ".q"},
    {".to_k", ".k"},
    {".to_v", ".v"},
    {".to_out.0", ".o"},
    {".ffn.net.0.proj", ".ffn.0"},
    {".ffn.net.2", ".ffn.2"},
    {".norm2", ".norm3"},
    {".scale_shift_table", ".modulation"},
    {"proj_out", "head.head"},
};

const std::pair<const char*, LoraPart> suffixes[] = {
    {".lora_A.weight", LoraPart::a},
    {".lora_A.default.weight", LoraPart::a},
    {".lora_down.weight", LoraPart::a},
    {".lora.down.weight", LoraPart::a},
    {".lora_B.weight", LoraPart::b},
    {".lora_B.default.weight", LoraPart::b},
    {".lora_up.weight", LoraPart::b},
    {".lora.up.weight", LoraPart::b},
    {".alpha", LoraPart::alpha},
    {".diff", LoraPart::weight_difference},
    {".diff_b", LoraPart::bias_difference},
};

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

// True, and without the prefix, where it is there.
bool strip_prefix(std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix)) return false;
  name.erase(0, prefix.size());
  return true;
}

bool strip_suffix(std::string& name, const std::string& suffix) {
  if (!name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  return true;
}

template <class Map>
auto find_or_null(const Map& map, const std::string& name) -> typename Map::mapped_type {
  const auto at = map.find(name);
  return at == map.end() ? nullptr : at->second;
}

}  // namespace

std::string original_name(std::string name) {
  if (name == "scale_shift_table") return "head.modulation";
  for (const auto& [ours, theirs] : original_parts) {
    const size_t place = name.find(ours);
    if (place != std::string::npos) name.replace(place, std::string(ours).size(), theirs);
  }
  return name;
}

namespace {

std::string text_encoder_name(const std::string& layer, LoraForm form) {
  const std::string own = layer.substr(std::string(text_encoder_prefix).size());
  return form == LoraForm::kohya       ? kohya_text_prefixes[0] + underscored(own)
         : form == LoraForm::diffusers ? layer
                                       : comfyui_text_prefix + own;
}

std::string denoiser_name(const std::string& layer, LoraForm form) {
  return form == LoraForm::kohya       ? kohya_prefix + underscored(original_name(layer))
         : form == LoraForm::diffusers ? diffusers_prefix + layer
                                       : comfyui_prefix + original_name(layer);
}

}  // namespace

std::string lora_key(const std::string& layer, LoraPart part, LoraForm form) {
  const bool peft = form == LoraForm::diffusers;
  const std::string name =
      layer.starts_with(text_encoder_prefix) ? text_encoder_name(layer, form) : denoiser_name(layer, form);
  switch (part) {
    case LoraPart::a:
      return name + (peft ? ".lora_A.weight" : ".lora_down.weight");
    case LoraPart::b:
      return name + (peft ? ".lora_B.weight" : ".lora_up.weight");
    case LoraPart::alpha:
      return name + ".alpha";
    case LoraPart::weight_difference:
      return name + ".diff";
    case LoraPart::bias_difference:
      return name + ".diff_b";
  }
  fail(ExitCode::internal, "no such part of a change");
}

bool is_text_encoder_key(const std::string& key) {
  return key.starts_with("lora_te") || key.starts_with("text_encoder");
}

void LoraNames::add_slots(const WeightList& list, const std::string& prefix) {
  for (const LayerSlot& layer : list.layers()) layers_[prefix + layer.name] = &layer;
  for (const WeightSlot& slot : list.slots()) {
    slots_[prefix + slot.name] = &slot;
    std::string module = prefix + slot.name;
    if (!strip_suffix(module, ".weight")) strip_suffix(module, ".bias");
    if (modules_.empty() || modules_.back() != module) modules_.push_back(module);
  }
}

LoraNames::LoraNames(const WeightList& denoiser, const WeightList* text_encoder) {
  add_slots(denoiser, "");
  const size_t of_denoiser = modules_.size();
  if (text_encoder) add_slots(*text_encoder, text_encoder_prefix);
  for (size_t i = of_denoiser; i < modules_.size(); ++i) {
    diffusers_[modules_[i]] = modules_[i];
    kohya_text_[underscored(modules_[i].substr(std::string(text_encoder_prefix).size()))] = modules_[i];
  }
  for (size_t i = 0; i < of_denoiser; ++i) {
    const std::string& module = modules_[i];
    const std::string original = original_name(module);
    diffusers_[module] = module;
    original_[original] = module;
    kohya_[underscored(original)] = module;
    // Layers have different names in the two; norms do not, so that there the file's form decides.
    if (!layers_.contains(module)) continue;
    diffusers_[original] = module;
    original_[module] = module;
    kohya_[underscored(module)] = module;
  }
}

std::optional<LoraKey> LoraNames::find(const std::string& key) const {
  std::string name = key;
  const auto* names = &diffusers_;
  const bool kohya_text = std::any_of(std::begin(kohya_text_prefixes), std::end(kohya_text_prefixes),
                                      [&](const char* prefix) { return strip_prefix(name, prefix); });
  if (kohya_text) {
    names = &kohya_text_;
  } else if (strip_prefix(name, comfyui_text_prefix)) {
    name = text_encoder_prefix + name;
  } else if (strip_prefix(name, kohya_prefix)) {
    names = &kohya_;
  } else if (strip_prefix(name, comfyui_prefix)) {
    names = &original_;
  } else {
    strip_prefix(name, diffusers_prefix);
  }
  for (const auto& [suffix, part] : suffixes) {
    std::string stem = name;
    if (!strip_suffix(stem, suffix)) continue;
    const auto module = names->find(stem);
    if (module == names->end()) return std::nullopt;
    const bool difference = part == LoraPart::weight_difference || part == LoraPart::bias_difference;
    if (!difference && !layer(module->second)) return std::nullopt;
    if (part == LoraPart::weight_difference && !weight(module->second)) return std::nullopt;
    if (part == LoraPart::bias_difference && !bias(module->second)) return std::nullopt;
    return LoraKey{module->second, part};
  }
  return std::nullopt;
}

const LayerSlot* LoraNames::layer(const std::string& module) const {
  return find_or_null(layers_, module);
}

const WeightSlot* LoraNames::weight(const std::string& module) const {
  const WeightSlot* slot = find_or_null(slots_, module + ".weight");
  return slot ? slot : find_or_null(slots_, module);
}

const WeightSlot* LoraNames::bias(const std::string& module) const {
  return find_or_null(slots_, module + ".bias");
}

}  // namespace frameshard
