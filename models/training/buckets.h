// The size at which a clip or picture of any form is trained.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/io/clip_reader.h"
#include "models/training/dataset.h"

namespace frameshard {

/// Sizes of one frame with at most width * height pixels, in steps of 64 pixels (of 16 where width * height
/// is below 512 * 512), from 1:4 to 4:1, and width x height itself, lying and upright: the buckets of NovelAI
/// (https://blog.novelai.net/novelai-improvements-on-stable-diffusion-e10d38db82ac) and kohya's scripts.
std::vector<ClipSize> bucket_sizes(int64_t width, int64_t height);

struct SizeChoice {
  std::optional<ClipSize> size;
  std::string reason;  ///< where there is none: too short or too small
};

/// A clip is never enlarged more than this to cover the size it is trained at.
inline constexpr double most_enlarged = 1.25;

/// Without buckets data.width x height, and num_frames of a clip. With them the bucket whose form is nearest
/// to the item's, of equals the largest; and of a clip 4k+1 of its frames, at most num_frames. A picture has
/// one frame.
SizeChoice choose_size(const ClipInfo& clip, const DataConfig& config);

}  // namespace frameshard
