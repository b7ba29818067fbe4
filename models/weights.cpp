#include "models/weights.h"

#include <set>

#include "core/error.h"

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
  add(name + ".weight", std::move(weight_shape), target.weight);
  slots_.back().keep_float32 = keep_float32;
  add(name + ".bias", {out}, target.bias);
  slots_.back().keep_float32 = keep_float32;
}

bool WeightList::ignores(const std::string& name) const {
  return std::any_of(ignored_.begin(), ignored_.end(), [&](auto& suffix) { return name.ends_with(suffix); });
}

int64_t WeightList::bytes(at::ScalarType dtype) const {
  int64_t total = 0;
  for (const WeightSlot& slot : slots_) {
    total += c10::multiply_integers(slot.shape) * int64_t(slot.keep_float32 ? 4 : c10::elementSize(dtype));
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
      problems.push_back(fmt::format("not part of this model: {} {}", name, format_shape(entry.shape)));
    }
  }
  if (problems.empty()) return;
  fail(ExitCode::bad_data, "{}: the weights do not fit the {} that config.json describes:{}",
       files.files().front().parent_path().string(), component, shortened(problems));
}

void load_weights(const WeightList& list, const WeightFiles& files, at::ScalarType dtype,
                  const at::Device& device) {
  for (const WeightSlot& slot : list.slots()) {
    const TensorEntry* entry = find(slot, files);
    require(entry != nullptr, "weight {} was not checked", slot.name);
    const auto options = at::TensorOptions().dtype(slot.keep_float32 ? at::kFloat : dtype).device(device);
    *slot.target = at::empty(slot.shape, options);
    files.read_into(*entry, *slot.target);
  }
}

}  // namespace frameshard
