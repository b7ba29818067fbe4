// Products of 8-bit floats on a GPU against the same values multiplied in float32 on a CPU.
#include <c10/core/GradMode.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/rng.h"
#include "models/common/float8.h"
#include "models/common/layers.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::testing::relative_error;

namespace {

const at::Device gpu_device(at::kCUDA, 0);

bool lacks_products() {
  const int capability = cuda()->compute_capability(0);
  if (capability >= 89) return false;
  WARN("SKIPPED: this GPU has no products of 8-bit floats: its compute capability is " << capability);
  return true;
}

}  // namespace

TEST_CASE("products of 8-bit floats are those of a CPU") {
  if (lacks_products()) return;
  const c10::NoGradGuard no_grad;
  use_device(gpu_device);
  require_float8(gpu_device);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (const int64_t rows : {1, 50, 333, 5000}) {
      Linear layer{initial_noise({96, 256}, 1).to(dtype), initial_noise({96}, 2).to(dtype)};
      quantize(layer);
      const Linear there{layer.weight.to(gpu_device), layer.bias.to(gpu_device), layer.scale.to(gpu_device)};
      const at::Tensor x = initial_noise({1, rows, 256}, 3).to(dtype);
      const at::Tensor got = apply(there, x.to(gpu_device)), wanted = apply(layer, x);
      INFO(rows << " rows of " << at::toString(dtype));
      CHECK(got.scalar_type() == dtype);
      CHECK(got.sizes() == wanted.sizes());
      CHECK(relative_error(got.cpu(), wanted) < 0.01);  // the GPU's product is rounded to bfloat16
    }
  }
}

TEST_CASE("a GPU without products of 8-bit floats is refused") {
  if (cuda()->compute_capability(0) >= 89) {
    WARN("SKIPPED: this GPU has them");
    return;
  }
  const auto error = caught([] { require_float8(gpu_device); });
  CHECK(error.code == ExitCode::config);
  CHECK(error.has("needs a GPU of compute capability 8.9 or more; this is cuda:0"));
}
