// A small model and low-rank changes of all of its layers.
#pragma once

#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/lora.h"
#include "models/wan/dit.h"
#include "parallel/comm/self.h"

namespace frameshard::test {

/// A small denoiser of which every layer shows in what is predicted.
struct Model {
  Model() {
    randomize_weights(dit.weights(), at::kFloat, at::kCPU, 3);
    // Large enough that attention is far from even, and each layer shows in what is predicted.
    for (const WeightSlot& slot : dit.weights().slots()) {
      if (slot.name.find("norm") == std::string::npos) slot.target->mul_(10);
    }
  }

  at::Tensor predict() const {
    const c10::NoGradGuard no_grad;
    const CommPtr alone = make_self_communicator();
    const AttentionPtr attention = make_local_attention();
    const ParallelSequence sequence(*alone, *attention, Partition::even(8, 1));
    return dit.predict(initial_noise({1, 4, 2, 4, 4}, 5), at::full({1}, 423.0),
                       dit.prepare(initial_noise({1, 6, 10}, 6)), sequence);
  }
  const WeightList& weights() const { return dit.weights(); }

  wan::Dit dit{{.heads = 2,
                .head_dim = 6,
                .layers = 2,
                .ffn_dim = 20,
                .in_channels = 4,
                .out_channels = 4,
                .text_dim = 10,
                .freq_dim = 8,
                .patch = {1, 2, 2},
                .cross_attention_norm = true,
                .eps = 1e-6,
                .max_positions = 64},
               at::kFloat};
};

/// A change of every layer, of ranks 1 to 3.
inline std::vector<LoraLayer> changes_of_all(const WeightList& list, uint64_t seed, double scale = 0.5) {
  std::vector<LoraLayer> changes;
  for (const LayerSlot& slot : list.layers()) {
    const int64_t rank = 1 + int64_t(changes.size()) % 3;
    std::vector<int64_t> down = slot.weight_shape, up(down.size(), 1);
    up[0] = std::exchange(down[0], rank);
    up[1] = rank;
    changes.push_back({.layer = slot.name,
                       .a = initial_noise(down, seed++) * 0.3,
                       .b = initial_noise(up, seed++) * 0.3,
                       .scale = scale});
  }
  return changes;
}

}  // namespace frameshard::test
