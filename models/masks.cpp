#include "models/masks.h"

#include "core/error.h"
#include "core/hash.h"
#include "core/io/image_reader.h"

namespace frameshard {
namespace {

// [1, 1, h, w] in double: weights may lie many orders of magnitude apart.
at::Tensor weight_map(const PromptConfig& prompt, at::IntArrayRef size) {
  if (!prompt.mask) return at::full({1, 1, size[0], size[1]}, prompt.weight, at::kDouble);
  const at::Tensor picture = read_gray_image(*prompt.mask).unsqueeze(0).unsqueeze(0);
  return at::_upsample_bilinear2d_aa(picture, size, /*align_corners=*/false).to(at::kDouble) * prompt.weight;
}

}  // namespace

std::vector<at::Tensor> prompt_masks(const RequestConfig& request, int64_t latent_height,
                                     int64_t latent_width) {
  const int64_t size[] = {latent_height, latent_width};
  std::vector<at::Tensor> maps;
  at::Tensor total = at::zeros({1, 1, latent_height, latent_width}, at::kDouble);
  for (const PromptConfig& prompt : request.all_prompts()) {
    maps.push_back(weight_map(prompt, size));
    total += maps.back();
  }
  if (const int64_t bare = total.eq(0).sum().item<int64_t>(); bare > 0) {
    fail(ExitCode::bad_data,
         "the masks of request.prompts leave {:.3g} % of the picture without a prompt; make one of them "
         "larger "
         "there, or give a prompt without a mask and with a small weight",
         100.0 * double(bare) / double(total.numel()));
  }
  for (at::Tensor& map : maps) map = (map / total).to(at::kFloat).unsqueeze(0);
  return maps;
}

std::string masks_identity(const RequestConfig& request) {
  std::string identity;
  for (const PromptConfig& prompt : request.all_prompts()) {
    if (!identity.empty()) identity += ' ';
    identity += prompt.mask ? file_hash(*prompt.mask) : "none";
  }
  return identity;
}

}  // namespace frameshard
