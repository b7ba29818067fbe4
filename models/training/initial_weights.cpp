#include "models/training/initial_weights.h"

#include <cmath>
#include <optional>
#include <string_view>

#include <ATen/CPUGeneratorImpl.h>

#include "core/error.h"

namespace frameshard {
namespace {

struct Beginning {
  enum class Kind { constant, uniform, normal };
  Kind kind;
  double number;  // the value, the bound, or the deviation
};
using Kind = Beginning::Kind;

const WeightSlot& find(const WeightList& list, const std::string& name) {
  for (const WeightSlot& slot : list.slots()) {
    if (slot.name == name) return slot;
  }
  fail(ExitCode::internal, "there is no weight {}", name);
}

// [out, in, kernel…] -> what one output is summed from.
double inputs(const WeightSlot& weight) {
  return double(c10::multiply_integers(weight.shape) / weight.shape[0]);
}

bool is_norm(const WeightSlot& slot) {
  return slot.name.find("norm") != std::string::npos || slot.name.ends_with(".gamma");
}

// The layer that a bias belongs to.
const WeightSlot& weight_of(const WeightList& list, const WeightSlot& bias) {
  return find(list, bias.name.substr(0, bias.name.size() - std::string_view("bias").size()) + "weight");
}

// T5's, which have names of their own.
std::optional<double> deviation_in_t5(const WeightList& list, const WeightSlot& slot) {
  const std::string attention = "SelfAttention.", position = "relative_attention_bias.weight";
  if (slot.name == "shared.weight") return 1.0;
  if (slot.name.find("DenseReluDense.") != std::string::npos) return 1 / std::sqrt(inputs(slot));
  const size_t place = slot.name.find(attention);
  if (place == std::string::npos) return {};
  const std::string layer = slot.name.substr(0, place + attention.size());
  if (slot.name.ends_with(position)) return 1 / std::sqrt(inputs(find(list, layer + "q.weight")));
  if (!slot.name.ends_with(".q.weight")) return 1 / std::sqrt(inputs(slot));
  const double head_dim = double(slot.shape[0] / find(list, layer + position).shape[1]);
  return 1 / std::sqrt(inputs(slot) * head_dim);
}

Beginning beginning(const WeightList& list, const WeightSlot& slot) {
  const bool bias = slot.name.ends_with(".bias");
  if (is_norm(slot)) return {Kind::constant, bias ? 0.0 : 1.0};
  if (slot.name.ends_with("scale_shift_table")) {
    return {Kind::normal, 1 / std::sqrt(double(slot.shape.back()))};
  }
  if (const auto deviation = deviation_in_t5(list, slot)) return {Kind::normal, *deviation};
  const WeightSlot& weight = bias ? weight_of(list, slot) : slot;
  require(weight.shape.size() > 1, "nothing is known that {} could begin with", slot.name);
  return {Kind::uniform, 1 / std::sqrt(inputs(weight))};
}

at::Tensor drawn(const Beginning& beginning, at::IntArrayRef shape, at::Generator generator) {
  const at::Tensor weight = at::empty(shape, at::kFloat);
  switch (beginning.kind) {
    case Kind::constant:
      return weight.fill_(beginning.number);
    case Kind::uniform:
      return weight.uniform_(-beginning.number, beginning.number, generator);
    case Kind::normal:
      return weight.normal_(0, beginning.number, generator);
  }
  return weight;
}

}  // namespace

void initialise_weights(const WeightList& list, at::ScalarType dtype, const at::Device& device,
                        uint64_t seed) {
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  for (const WeightSlot& slot : list.slots()) {
    allocate_weight(slot, dtype, device);
    slot.target->copy_(drawn(beginning(list, slot), slot.shape, generator));
  }
}

}  // namespace frameshard
