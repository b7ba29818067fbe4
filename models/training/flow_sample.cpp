#include "models/training/flow_sample.h"

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>

namespace frameshard {
namespace {

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

// shift s / (1 + (shift - 1) s), written so that no shift above 0 divides by 0.
double shifted(double s, double shift) {
  return shift * s / ((1.0 - s) + shift * s);
}

}  // namespace

SampleDraw draw_sample(uint64_t seed, at::IntArrayRef latent_shape, const NoiseConfig& noise, double shift) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const auto number = at::TensorOptions().dtype(at::kDouble);
  const double level =
      noise.sampling == "logit_normal"
          ? sigmoid(noise.mean + noise.deviation * at::randn({1}, generator, number).item<double>())
          : at::rand({1}, generator, number).item<double>();
  const double dropout = at::rand({1}, generator, number).item<double>();
  return {.level = shifted(level, shift),
          .dropout = dropout,
          .noise = at::randn(latent_shape, generator, at::TensorOptions().dtype(at::kFloat))};
}

FlowSample noised(const at::Tensor& latents, double level, const at::Tensor& noise) {
  return {.level = level, .noisy = (1.0 - level) * latents + level * noise, .target = noise - latents};
}

}  // namespace frameshard
