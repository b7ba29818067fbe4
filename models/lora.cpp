#include "models/lora.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/text.h"
#include "models/lora_names.h"

namespace frameshard {
namespace {

// In float32, rounded once to the weight's dtype.
void add_to(at::Tensor& weight, const at::Tensor& change, double scale) {
  const at::Tensor here = change.to(weight.device(), at::kFloat).view(weight.sizes());
  weight.copy_(weight.to(at::kFloat).add_(here, scale));
}

void merge(const LoraLayer& change, const LayerSlot& slot, double scale) {
  require(!slot.computed->scale.defined() && slot.layer->weight.defined(),
          "low-rank changes are merged into {}, whose weights are not there as numbers", slot.name);
  // On the weight's device: the product has its size.
  const at::Device device = slot.layer->weight.device();
  const at::Tensor product = change.b.flatten(1).to(device).mm(change.a.flatten(1).to(device));
  add_to(slot.layer->weight, product, scale * change.scale);
}

void add_adapter(const LoraLayer& change, const LayerSlot& slot, double scale) {
  // The bias has the dtype that the layer computes in, also where its weight is in 8-bit floats.
  const Linear& layer = *slot.computed;
  const at::TensorOptions options = (layer.bias.defined() ? layer.bias : layer.weight).options();
  slot.computed->adapters.push_back({.a = change.a.flatten(1).to(options),
                                     .b = change.b.flatten(1).to(options),
                                     .scale = scale * change.scale,
                                     .first_row = slot.first_row});
}

void add_differences(const LoraLayer& change, const LoraNames& names, double scale) {
  if (change.weight_difference.defined()) {
    require(names.weight(change.layer)->target->defined(), "{} has no weight to add to", change.layer);
    add_to(*names.weight(change.layer)->target, change.weight_difference, scale);
  }
  if (change.bias_difference.defined()) {
    require(names.bias(change.layer)->target->defined(), "{} has no bias to add to", change.layer);
    add_to(*names.bias(change.layer)->target, change.bias_difference, scale);
  }
}

// * stands for any text.
bool matches_pattern(std::string_view name, std::string_view pattern) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return name == pattern;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  for (size_t begin = star; begin <= name.size(); ++begin) {
    if (matches_pattern(name.substr(begin), pattern.substr(star + 1))) return true;
  }
  return false;
}

bool matches_target(const std::string& name, const std::string& target) {
  if (target.find('*') != std::string::npos) return matches_pattern(name, target);
  return name == target || name.ends_with("." + target);
}

bool has_kernel(const LayerSlot& layer) {
  return layer.weight_shape.size() > 2;
}

// "blocks.*.attn1.to_q" and the like: layers of all blocks under one name.
std::set<std::string> names_over_blocks(const WeightList& list) {
  const std::string blocks = "blocks.";
  std::set<std::string> names;
  for (const LayerSlot& layer : list.layers()) {
    if (has_kernel(layer)) continue;
    std::string name = layer.name;
    if (name.starts_with(blocks)) {
      name = fmt::format("{}*{}", blocks, name.substr(name.find('.', blocks.size())));
    }
    names.insert(name);
  }
  return names;
}

}  // namespace

std::vector<LoraLayer> denoiser_changes(const std::vector<LoraLayer>& changes) {
  std::vector<LoraLayer> own;
  std::copy_if(changes.begin(), changes.end(), std::back_inserter(own),
               [](const LoraLayer& each) { return !each.layer.starts_with(text_encoder_prefix); });
  return own;
}

std::vector<LoraLayer> text_encoder_changes(const std::vector<LoraLayer>& changes) {
  std::vector<LoraLayer> own;
  for (const LoraLayer& each : changes) {
    if (!each.layer.starts_with(text_encoder_prefix)) continue;
    own.push_back(each);
    own.back().layer.erase(0, std::string(text_encoder_prefix).size());
  }
  return own;
}

void use_lora(const std::vector<LoraLayer>& changes, const WeightList& list, UseLora use) {
  const c10::NoGradGuard no_grad;
  const LoraNames names(list);
  for (const LoraLayer& change : changes) {
    if (change.a.defined()) {
      const LayerSlot* slot = names.layer(change.layer);
      require(slot != nullptr, "a low-rank change of {}, which is no layer of this model", change.layer);
      use.merge ? merge(change, *slot, use.scale) : add_adapter(change, *slot, use.scale);
    }
    add_differences(change, names, use.scale);
  }
}

std::vector<LayerSlot> lora_targets(const WeightList& list, const std::vector<std::string>& targets) {
  static const std::vector<std::string> attentions{"to_q", "to_k", "to_v", "to_out.0"};
  const std::vector<std::string>& wanted = targets.empty() ? attentions : targets;
  std::vector<bool> used(wanted.size(), false);
  std::vector<LayerSlot> found;
  for (const LayerSlot& layer : list.layers()) {
    if (has_kernel(layer)) continue;
    bool matches = false;
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (!matches_target(layer.name, wanted[i])) continue;
      matches = used[i] = true;
    }
    if (matches) found.push_back(layer);
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (used[i]) continue;
    fail(ExitCode::config, "{} matches no layer that can have a low-rank change; there are {}",
         quote_for_message(wanted[i]), fmt::join(names_over_blocks(list), ", "));
  }
  return found;
}

std::vector<LoraLayer> new_lora(const std::vector<LayerSlot>& layers, int64_t rank, double alpha,
                                uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  std::vector<LoraLayer> changes;
  for (const LayerSlot& layer : layers) {
    const int64_t out = layer.weight_shape[0], in = layer.weight_shape[1];
    const double bound = std::sqrt(1.0 / double(in));
    changes.push_back({.layer = layer.name,
                       .a = at::empty({rank, in}, at::kFloat).uniform_(-bound, bound, generator),
                       .b = at::zeros({out, rank}, at::kFloat),
                       .scale = alpha / double(rank)});
  }
  return changes;
}

}  // namespace frameshard
