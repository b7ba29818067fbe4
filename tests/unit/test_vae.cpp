// Decoding a picture in bands of rows.
#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/checkpoint.h"
#include "parallel/partition.h"
#include "tests/support/catch.h"
#include "tests/support/random_folder.h"
#include "tests/support/scratch.h"

using namespace frameshard;

namespace {

std::unique_ptr<Vae> random_vae(int64_t residual_blocks) {
  const test::Scratch scratch;
  testing::write_random_folder(scratch.path(), {.residual_blocks = residual_blocks},
                               std::string(FRAMESHARD_SOURCE_DIR) + "/examples/shapes/tokenizer");
  return open_checkpoint(scratch.path())->load_vae({at::kFloat, at::kCPU});
}

at::Tensor decoded(const Vae& vae, const at::Tensor& latents, Rows rows) {
  std::vector<at::Tensor> parts;
  vae.decode(latents, rows, [&](const at::Tensor& frames) { parts.push_back(frames); });
  return at::cat(parts, 2);
}

}  // namespace

TEST_CASE("bands of rows are parts of the undivided picture") {
  const c10::NoGradGuard no_grad;
  const auto vae = random_vae(GENERATE(1, 2));
  const int64_t height = GENERATE(1, 2, 7, 30);
  const at::Tensor latents = initial_noise({1, 16, 3, height, 3}, 5);
  const at::Tensor whole = decoded(*vae, latents, {0, height});
  REQUIRE(whole.sizes() == at::IntArrayRef({1, 3, 9, 8 * height, 24}));
  CHECK(whole.std().item<double>() > 0.01);
  for (int ranks : {2, 3, 5}) {
    const Partition bands = Partition::even(height, ranks);
    for (int i = 0; i < ranks; ++i) {
      const at::Tensor band = decoded(*vae, latents, {bands.begin(i), bands.end(i)});
      const at::Tensor wanted = whole.narrow(3, 8 * bands.begin(i), 8 * bands.size(i));
      REQUIRE(band.sizes() == wanted.sizes());
      if (band.numel() > 0) CHECK((band - wanted).abs().max().item<double>() < 1e-4);
    }
  }
}
