// Wan 2.1's transformers with random weights, made on the device.
#include "models/presets.h"

#include "models/schedules/flow_grid.h"
#include "models/wan/dit.h"

namespace frameshard {
namespace {

using wan::Dit;
using wan::DitConfig;

class RandomWan final : public DenoiserSource {
 public:
  RandomWan(DitConfig config, double flow_shift) : config_(std::move(config)), flow_shift_(flow_shift) {}

  ModelFacts facts(at::ScalarType dtype, at::ScalarType vae_dtype) const override {
    ModelFacts facts = transformer_facts(config_, dtype);
    facts.vae_element_bytes = int64_t(c10::elementSize(vae_dtype));
    return facts;
  }

  std::unique_ptr<Denoiser> denoiser_without_weights() const override {
    return std::make_unique<Dit>(config_, at::kFloat);
  }

  std::unique_ptr<Denoiser> load_denoiser(const LoadOptions& options) const override {
    constexpr uint64_t seed = 0;  // the same weights on every rank
    auto dit = std::make_unique<Dit>(config_, options.dtype);
    randomize_weights(dit->weights(), options.dtype, options.device, seed);
    return dit;
  }

  std::unique_ptr<NoiseSchedule> schedule(const SchedulerConfig& overrides, int64_t steps) const override {
    return make_schedule({.solver = overrides.solver.value_or("unipc"),
                          .sigmas = overrides.sigmas,
                          .shift = overrides.flow_shift.value_or(flow_shift_)},
                         steps);
  }

 private:
  DitConfig config_;
  double flow_shift_;
};

// What all sizes of Wan 2.1 share.
DitConfig sizes(int64_t layers, int64_t heads, int64_t head_dim, int64_t ffn_dim, int64_t text_dim) {
  return {.heads = heads,
          .head_dim = head_dim,
          .layers = layers,
          .ffn_dim = ffn_dim,
          .in_channels = 16,
          .out_channels = 16,
          .text_dim = text_dim,
          .freq_dim = 256,
          .patch = {1, 2, 2},
          .cross_attention_norm = true,
          .eps = 1e-6,
          .max_positions = 1024};
}

template <int64_t layers, int64_t heads, int64_t head_dim, int64_t ffn_dim, int64_t text_dim, int flow_shift>
std::unique_ptr<DenoiserSource> open() {
  return std::make_unique<RandomWan>(sizes(layers, heads, head_dim, ffn_dim, text_dim), flow_shift);
}

// Wan's own shift of the noise levels is 3 for 480 lines and 5 for 720.
const std::vector<Preset>& presets() {
  static const std::vector<Preset> all{
      {"wan-middle", 256, 256, 33, 128, open<6, 8, 64, 2048, 256, 3>},
      {"wan-1.3b", 832, 480, 81, 512, open<30, 12, 128, 8960, 4096, 3>},
      {"wan-14b", 1280, 720, 81, 512, open<40, 40, 128, 13824, 4096, 5>},
  };
  return all;
}

}  // namespace

const Preset* find_preset(const std::string& name) {
  for (const Preset& preset : presets()) {
    if (preset.name == name) return &preset;
  }
  return nullptr;
}

std::string preset_names() {
  std::string names;
  for (const Preset& preset : presets()) names += (names.empty() ? "" : ", ") + preset.name;
  return names;
}

}  // namespace frameshard
