#include "models/weights.h"

#include <set>

#include <ATen/Context.h>

#include "core/error.h"
#include "core/text.h"
#include "models/weight_sharing.h"

namespace frameshard {
namespace {

const TensorEntry* find(const WeightSlot& slot, const WeightFiles& files) {
  if (const TensorEntry* entry = files.find(slot.name)) return entry;
  for (const std::string& alias : slot.aliases) {
    if (const TensorEntry* entry = files.find(alias)) return entry;
  }
  return nullptr;
}

// At most 10 lines, and how many more there are.
std::string shortened(const std::vector<std::string>& lines) {
  const size_t shown = std::min<size_t>(lines.size(), 10);
  std::string text = fmt::format("\n  {}", fmt::join(lines.begin(), lines.begin() + long(shown), "\n  "));
  if (lines.size() > shown) text += fmt::format("\n  ... and {} more", lines.size() - shown);
  return text;
}

}  // namespace

int64_t WeightSlot::bytes(at::ScalarType model) const {
  return c10::multiply_integers(shape) * int64_t(c10::elementSize(dtype(model)));
}

void WeightList::add(const std::string& name, std::vector<int64_t> shape, at::Tensor& target) {
  slots_.push_back({.name = name, .shape = std::move(shape), .target = &target});
}

void WeightList::add_float32(const std::string& name, std::vector<int64_t> shape, at::Tensor& target) {
  add(name, std::move(shape), target);
  slots_.back().keep_float32 = true;
}

void WeightList::add_alias(const std::string& alias) {
  slots_.back().aliases.push_back(alias);
}

void WeightList::add_layer(const std::string& name, std::vector<int64_t> weight_shape, Linear& target,
                           bool keep_float32) {
  const int64_t out = weight_shape.front();
  add_layer_without_bias(name, std::move(weight_shape), target);
  slots_.back().keep_float32 = keep_float32;
  add(name + ".bias", {out}, target.bias);
  slots_.back().keep_float32 = keep_float32;
}

void WeightList::add_layer_without_bias(const std::string& name, std::vector<int64_t> weight_shape,
                                        Linear& target) {
  layers_.push_back({.name = name, .weight_shape = weight_shape, .layer = &target, .computed = &target});
  add(name + ".weight", std::move(weight_shape), target.weight);
}

void WeightList::stack(const std::vector<Linear*>& layers, Linear& whole) {
  std::vector<at::Tensor*> weights, biases;
  int64_t rows = 0;
  for (Linear* layer : layers) {
    const auto slot =
        std::find_if(layers_.begin(), layers_.end(), [&](auto& each) { return each.layer == layer; });
    require(slot != layers_.end(), "stacks a layer that was not added");
    slot->computed = &whole;
    slot->first_row = std::exchange(rows, rows + slot->weight_shape.front());
    weights.push_back(&layer->weight);
    biases.push_back(&layer->bias);
  }
  stack(weights, whole.weight);
  stack(biases, whole.bias);
}

void WeightList::stack(const std::vector<at::Tensor*>& targets, at::Tensor& whole) {
  std::vector<WeightSlot*> parts;
  int64_t rows = 0;
  for (at::Tensor* target : targets) {
    const auto slot = std::find_if(slots_.begin(), slots_.end(), [&](auto& s) { return s.target == target; });
    require(slot != slots_.end(), "stacks a weight that was not added");
    slot->whole = &whole;
    slot->first_row = std::exchange(rows, rows + slot->shape[0]);
    parts.push_back(&*slot);
  }
  for (WeightSlot* slot : parts) slot->whole_rows = rows;
}

bool WeightList::ignores(const std::string& name) const {
  return std::any_of(ignored_.begin(), ignored_.end(), [&](auto& suffix) { return name.ends_with(suffix); });
}

int64_t WeightList::bytes(at::ScalarType dtype) const {
  int64_t total = 0;
  for (const WeightSlot& slot : slots_) {
    total += slot.bytes(dtype);
  }
  return total;
}

void check_weights(const WeightList& list, const WeightFiles& files, const std::string& component) {
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const WeightSlot& slot : list.slots()) {
    known.insert(slot.name);
    known.insert(slot.aliases.begin(), slot.aliases.end());
    const TensorEntry* entry = find(slot, files);
    if (!entry) {
      problems.push_back(fmt::format("missing: {} {}", slot.name, format_shape(slot.shape)));
    } else if (entry->shape != slot.shape) {
      problems.push_back(fmt::format("wrong shape: {}: got {}, wanted {}", slot.name,
                                     format_shape(entry->shape), format_shape(slot.shape)));
    }
  }
  for (const auto& [name, entry] : files.tensors()) {
    if (!known.contains(name) && !list.ignores(name)) {
      problems.push_back(
          fmt::format("not part of this model: {} {}", one_line(name), format_shape(entry.shape)));
    }
  }
  if (problems.empty()) return;
  fail(ExitCode::bad_data, "{}: the weights do not fit the {} that config.json describes:{}",
       files.files().front().parent_path().string(), component, shortened(problems));
}

void allocate_weight(const WeightSlot& slot, at::ScalarType dtype,
                     const std::function<at::Tensor(at::IntArrayRef, at::ScalarType)>& make) {
  if (!slot.whole) {
    *slot.target = make(slot.shape, slot.dtype(dtype));
    return;
  }
  if (slot.first_row == 0) {
    std::vector<int64_t> shape = slot.shape;
    shape[0] = slot.whole_rows;
    *slot.whole = make(shape, slot.dtype(dtype));
  }
  *slot.target = slot.whole->narrow(0, slot.first_row, slot.shape[0]);
}

void allocate_weight(const WeightSlot& slot, at::ScalarType dtype, const at::Device& device) {
  allocate_weight(slot, dtype, [&](at::IntArrayRef shape, at::ScalarType type) {
    return at::empty(shape, at::TensorOptions().dtype(type).device(device));
  });
}

void read_weight(const WeightSlot& slot, const WeightFiles& files) {
  const TensorEntry* entry = find(slot, files);
  require(entry != nullptr, "weight {} was not checked", slot.name);
  files.read_into(*entry, *slot.target);
}

void load_weights(const WeightList& list, const WeightFiles& files, const LoadOptions& options) {
  if (options.host) return load_weights_together(list, files, options);
  for (const WeightSlot& slot : list.slots()) {
    allocate_weight(slot, options.dtype, options.device);
    read_weight(slot, files);
  }
}

void move_weights(const WeightList& list, const at::Device& device) {
  for (const WeightSlot& slot : list.slots()) {
    if (!slot.whole) {
      if (slot.target->defined()) *slot.target = slot.target->to(device);
    } else if (slot.first_row == 0 && slot.whole->defined()) {
      *slot.whole = slot.whole->to(device);
    }
    // A part may have been given up for its whole (float8).
    if (slot.whole && slot.target->defined()) {
      *slot.target = slot.whole->narrow(0, slot.first_row, slot.shape[0]);
    }
  }
  for (const LayerSlot& layer : list.layers()) {
    for (LowRank& change : layer.computed->adapters) {
      change.a = change.a.to(device);
      change.b = change.b.to(device);
    }
  }
}

void randomize_weights(const WeightList& list, at::ScalarType dtype, const at::Device& device,
                       uint64_t seed) {
  constexpr double deviation = 0.02;  // what transformers are initialised with
  at::Generator generator = at::globalContext().defaultGenerator(device).clone();
  generator.set_current_seed(seed);
  for (const WeightSlot& slot : list.slots()) {
    allocate_weight(slot, dtype, device);
    const bool norm = slot.name.find("norm") != std::string::npos || slot.name.ends_with("gamma");
    if (norm && !slot.name.ends_with("bias")) {
      slot.target->fill_(1);
    } else {
      slot.target->normal_(0, deviation, generator);
    }
  }
}

}  // namespace frameshard
