// Writes a checkpoint folder with random weights: of a real model's sizes in bfloat16, in shards of 4 GB, or
// small ones in which the weights are most of what a rank holds.
//   frameshard_make_folder wan-1.3b|wan-14b-4-layers|medium FOLDER TOKENIZER
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "tests/support/random_folder.h"

int main(int argc, char** argv) {
  using namespace frameshard;
  if (argc != 4) return int(ExitCode::usage);
  testing::FolderSizes sizes{.heads = 12,
                             .head_dim = 128,
                             .layers = 30,
                             .ffn_dim = 8960,
                             .text_dim = 4096,
                             .freq_dim = 256,
                             .text_layers = 24,
                             .text_heads = 64,
                             .text_head_dim = 64,
                             .text_ffn_dim = 10240,
                             .vocabulary = 256384,
                             .vae_dim = 96,
                             .residual_blocks = 2,
                             .dtype = at::kBFloat16,
                             .shard_bytes = 4'000'000'000};
  if (std::strcmp(argv[1], "wan-14b-4-layers") == 0) {
    sizes.heads = 40, sizes.layers = 4, sizes.ffn_dim = 13824;
    sizes.text_layers = 1, sizes.vocabulary = 314;  // umT5-xxl itself is in the other folder
  }
  if (std::strcmp(argv[1], "medium") == 0) {  // in float32: transformer 440 MB, VAE 510 MB
    sizes = {.heads = 8, .head_dim = 128, .layers = 5, .ffn_dim = 4096, .text_dim = 512, .freq_dim = 256};
    sizes.vae_dim = 96, sizes.residual_blocks = 2;
  }
  try {
    testing::write_random_folder(argv[2], sizes, argv[3]);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return int(error.code());
  }
}
