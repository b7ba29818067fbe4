// Literal values: torch 2.11. g = torch.Generator().manual_seed(seed), then torch.randn or torch.rand(1,
// dtype=torch.float64, generator=g), torch.rand(1, dtype=torch.float64, generator=g), torch.randn(shape,
// generator=g); level = sigmoid(mean + deviation n), shift level / (1 + (shift - 1) level).
#include <cmath>

#include "core/rng.h"
#include "models/training/flow_sample.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

struct Drawn {
  uint64_t seed;
  NoiseConfig config;
  double shift;
  std::vector<int64_t> shape;
  double level, dropout;
  double first, eighteenth, last, sum;  // of the noise
};

NoiseConfig logit_normal(double mean, double deviation) {
  return {.sampling = "logit_normal", .mean = mean, .deviation = deviation, .shift = {}};
}

NoiseConfig uniform() {
  return {.sampling = "uniform", .shift = {}};
}

}  // namespace

TEST_CASE("a sample's level, dropout and noise are torch's of the same seed") {
  const Drawn wanted = GENERATE(Drawn{0,
                                      logit_normal(0, 1),
                                      1,
                                      {1, 16, 2, 3, 5},
                                      0.8236094833917301,
                                      0.45938294312745087,
                                      -0.31601276993751526,
                                      1.85300612449646,
                                      -1.0767011642456055,
                                      14.09038579458138},
                                Drawn{7,
                                      logit_normal(-0.5, 1.5),
                                      3,
                                      {1, 16, 2, 3, 5},
                                      0.5934918834313648,
                                      0.8620929614176255,
                                      -0.641091525554657,
                                      -0.7245107293128967,
                                      1.449876308441162,
                                      21.04883469591732},
                                Drawn{9223372036854775813u,
                                      uniform(),
                                      1,
                                      {1, 16, 1, 4, 4},
                                      0.6420150066280941,
                                      0.2597579151763153,
                                      2.0194194316864014,
                                      -0.6017656326293945,
                                      0.4612142741680145,
                                      -12.309939918806776},
                                Drawn{41,
                                      uniform(),
                                      5,
                                      {1, 16, 3, 3, 3},
                                      0.9762545221748712,
                                      0.40424171494168726,
                                      0.5660322308540344,
                                      -1.445296287536621,
                                      0.08530078828334808,
                                      -4.068494172533974});
  INFO("seed " << wanted.seed);
  const SampleDraw draw = draw_sample(wanted.seed, wanted.shape, wanted.config, wanted.shift);
  CHECK(std::abs(draw.level - wanted.level) < 1e-7);
  CHECK(std::abs(draw.dropout - wanted.dropout) < 1e-7);
  REQUIRE(draw.noise.sizes() == at::IntArrayRef(wanted.shape));
  REQUIRE(draw.noise.scalar_type() == at::kFloat);
  const at::Tensor flat = draw.noise.flatten();
  CHECK(std::abs(flat[0].item<double>() - wanted.first) < 2e-6);
  CHECK(std::abs(flat[17].item<double>() - wanted.eighteenth) < 2e-6);
  CHECK(std::abs(flat[-1].item<double>() - wanted.last) < 2e-6);
  CHECK(std::abs(flat.to(at::kDouble).sum().item<double>() - wanted.sum) < 1e-4);
}

TEST_CASE("a noised sample lies between latents and noise, and its target leads back") {
  const at::Tensor latents = initial_noise({1, 16, 2, 3, 5}, 1), noise = initial_noise({1, 16, 2, 3, 5}, 2);
  const FlowSample sample = noised(latents, 0.3, noise);
  CHECK(sample.timestep() == 300.0);
  CHECK(at::allclose(sample.noisy, 0.7 * latents + 0.3 * noise, 1e-6, 1e-6));
  CHECK(at::allclose(sample.noisy - 0.3 * sample.target, latents, 1e-5, 1e-5));
  CHECK(sample.noisy.scalar_type() == at::kFloat);
}

TEST_CASE("no mean, deviation or shift makes a level that is not finite") {
  for (const auto& [mean, shift] :
       {std::pair{100.0, 1e-300}, {100.0, 100.0}, {-100.0, 1e-300}, {-100.0, 100.0}, {0.0, 1e-300}}) {
    const double level = draw_sample(3, {1, 16, 1, 1, 1}, logit_normal(mean, 100), shift).level;
    INFO("mean " << mean << ", shift " << shift);
    CHECK((level >= 0 && level <= 1));
  }
}
