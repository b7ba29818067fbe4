// Tiles that several ranks decode in turn make the picture of one rank.
#include <filesystem>

#include <c10/core/GradMode.h>
#include <unistd.h>

#include "core/rng.h"
#include "models/checkpoint.h"
#include "models/tiled_decode.h"
#include "parallel/comm/self.h"
#include "tests/support/random_folder.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

namespace fs = std::filesystem;

// Every process makes the same one; threads share it.
std::unique_ptr<Vae> random_vae() {
  const fs::path folder = fs::temp_directory_path() / ("frameshard_tiles_" + std::to_string(::getpid()));
  write_random_folder(folder, {}, fs::path(FRAMESHARD_SOURCE_DIR) / "examples/shapes/tokenizer");
  auto vae = open_checkpoint(folder)->load_vae({at::kFloat, at::kCPU});
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  return vae;
}

// Undefined on ranks that get nothing.
at::Tensor decoded(const Vae& vae, const at::Tensor& latents, const TileRanks& ranks) {
  const c10::NoGradGuard no_grad;
  at::Tensor picture;
  decode_tiled(vae, latents, {.size = 4, .stride = 3}, ranks,
               [&](const Area& area, const at::Tensor& frames) {
                 if (!picture.defined()) {
                   picture = at::full({1, 3, frames.size(2), 8 * latents.size(3), 8 * latents.size(4)}, NAN);
                 }
                 picture.narrow(3, area.top, area.height).narrow(4, area.left, area.width).copy_(frames);
               });
  return picture;
}

}  // namespace

TEST_CASE("ranks take tiles in turn, also more ranks than are left in a round") {
  const auto vae = random_vae();
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{7, 5}, {3, 4}, {5, 11}}) {
    const at::Tensor latents = initial_noise({1, 16, 2, height, width}, 5);
    const at::Tensor alone = decoded(*vae, latents, {*make_self_communicator()});
    on_ranks({1, 2, 3, 4, 5}, [&](Communicator& comm) {
      const at::Tensor together = decoded(*vae, latents, {comm});
      check(together.defined() == (comm.rank() == 0), "the first rank alone has the picture");
      if (comm.rank() == 0) check(at::equal(together, alone), "the picture of several ranks");
      std::vector<double> speeds(size_t(comm.size()), 1.0);
      speeds.back() = 2.5, speeds.front() = comm.size() > 2 ? 0 : 1;
      const at::Tensor weighted = decoded(*vae, latents, {comm, speeds});
      if (comm.rank() == 0) check(at::equal(weighted, alone), "the picture of unequal ranks");
    });
  }
}

TEST_CASE("a NaN in one rank's tile ends all of them") {
  const auto vae = random_vae();
  at::Tensor latents = initial_noise({1, 16, 2, 7, 5}, 5);
  latents[0][0][1][6][4] = NAN;  // seen by the last tiles only
  on_ranks({1, 2, 3}, [&](Communicator& comm) {
    try {
      decoded(*vae, latents, {comm});
    } catch (const Error& error) {
      check(error.code() == ExitCode::not_finite, "not_finite");
      check(std::string(error.what()).find("near frame 1") != std::string::npos, error.what());
      return;
    }
    check(false, "nothing was thrown");
  });
}
