// A diffusers folder of the Wan family with random weights, from the same lists of weights that load one.
#pragma once

#include <filesystem>

#include <ATen/ATen.h>

namespace frameshard::testing {

struct FolderSizes {
  int64_t heads = 4, head_dim = 12, layers = 2, ffn_dim = 96, text_dim = 32, freq_dim = 64;
  int64_t text_layers = 1, text_heads = 2, text_head_dim = 16, text_ffn_dim = 64, vocabulary = 314;
  int64_t vae_dim = 4, residual_blocks = 1;
  at::ScalarType dtype = at::kFloat;
  int64_t shard_bytes =
      0;  ///< above 0: the transformer and text encoder as shards of about this size with an index
};

/// Writes the folder; `tokenizer_from` is an existing folder's tokenizer/, which is copied.
void write_random_folder(const std::filesystem::path& folder, const FolderSizes& sizes,
                         const std::filesystem::path& tokenizer_from, uint64_t seed = 0);

}  // namespace frameshard::testing
