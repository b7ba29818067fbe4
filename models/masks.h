// Where in the picture each prompt of a request counts (`request.prompts[].mask`).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/config.h"

namespace frameshard {

/// For each of `request.all_prompts()` what its prediction is multiplied with, [1, 1, 1, latent_height,
/// latent_width] float32 on the CPU, to be broadcast over [B, C, F, H, W]. At each place they sum to 1:
/// weight_i * mask_i / sum_j weight_j * mask_j, as ComfyUI combines conditionings (samplers.py,
/// calc_cond_batch). A mask is stretched to the latents' size, bilinear with antialiasing; a prompt without
/// one counts everywhere.
/// Fails with ExitCode::bad_data where some place is left without a prompt, and as read_gray_image does
/// (core/io/image_reader.h).
std::vector<at::Tensor> prompt_masks(const RequestConfig& request, int64_t latent_height,
                                     int64_t latent_width);

/// Equal texts for equal masks, to compare ranks, which may see different files under the same name: for each
/// prompt the hash of its file (core/hash.h), or "none". Fails as file_hash does.
std::string masks_identity(const RequestConfig& request);

}  // namespace frameshard
