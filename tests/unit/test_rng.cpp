// Literal values: torch 2.11, torch.randn(shape, generator=torch.Generator().manual_seed(seed)).
#include <cmath>

#include "core/rng.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

void check_values(const at::Tensor& noise, const std::vector<int64_t>& places,
                  const std::vector<double>& values) {
  const at::Tensor flat = noise.flatten();
  for (size_t i = 0; i < places.size(); ++i) {
    INFO("element " << places[i]);
    CHECK(std::abs(flat[places[i]].item<double>() - values[i]) < 2e-6);
  }
}

const std::vector<int64_t> latents_shape{1, 16, 3, 4, 5};
const std::vector<int64_t> places{0, 1, 2, 15, 16, 17, 100, 479, 958, 959};

}  // namespace

TEST_CASE("fewer than 16 numbers are torch.randn's") {
  check_values(initial_noise({6}, 0), {0, 1, 2, 3, 4, 5},
               {1.54099607, -0.293428898, -2.17878938, 0.568431258, -1.08452237, -1.39859545});
  check_values(initial_noise({6}, 42), {0, 1, 2, 3, 4, 5},
               {0.336690366, 0.128809407, 0.234462366, 0.23033303, -1.12285638, -0.186328292});
}

TEST_CASE("16 numbers and more are torch.randn's, whose tail is drawn again") {
  check_values(initial_noise({17}, 0), {0, 1, 2, 14, 15, 16},
               {-1.12583983, -1.6959312, 0.566650629, 0.946298361, -0.843676746, 0.931826591});
  check_values(initial_noise({17}, 42), {0, 1, 2, 14, 15, 16},
               {1.92691529, -0.159597471, -0.497397542, -0.251575291, 0.859858513, -0.309726775});
}

TEST_CASE("latents are torch.randn's") {
  const at::Tensor zero = initial_noise(latents_shape, 0), answer = initial_noise(latents_shape, 42);
  check_values(zero, places,
               {-1.12583983, -1.1523602, -0.250578582, -0.247278154, -1.35265374, -1.6959312, -2.6133225,
                -3.15372443, -0.571069241, -0.119452819});
  check_values(answer, places,
               {1.92691529, 1.48728406, 0.900717199, 0.76244539, 1.64231694, -0.159597471, 0.640755296,
                -1.08803821, -0.346101493, -0.263381422});
  CHECK(std::abs(zero.to(at::kDouble).sum().item<double>() - 37.3485614999081) < 1e-4);
  CHECK(std::abs(answer.to(at::kDouble).sum().item<double>() - 11.704183968657162) < 1e-4);
}

TEST_CASE("noise is float32 on the CPU and depends on the seed alone") {
  const at::Tensor noise = initial_noise(latents_shape, 7);
  CHECK(noise.scalar_type() == at::kFloat);
  CHECK(noise.is_cpu());
  CHECK(noise.sizes() == at::IntArrayRef(latents_shape));
  at::randn({100});  // the global generator has no part in it
  CHECK(at::equal(initial_noise(latents_shape, 7), noise));
  CHECK_FALSE(at::equal(initial_noise(latents_shape, 8), noise));
  // torch's generator on the CPU takes the seed's lower 32 bits.
  CHECK(at::equal(initial_noise({6}, (uint64_t(1) << 40) + 7), initial_noise({6}, 7)));
}
