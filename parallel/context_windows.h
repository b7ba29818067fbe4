// A long video as overlapping windows of the model's length, each denoised as a video of its own and blended
// in every step (as AnimateDiff-Evolved and ComfyUI's context windows do).
#pragma once

#include <cstdint>
#include <vector>

namespace frameshard {

/// Frames [begin, end) of the latents.
struct FrameWindow {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
  bool operator==(const FrameWindow&) const = default;
};

/// Windows of `window` frames, each `window - overlap` after the one before; the last one ends with the
/// video, and so overlaps more. One of all frames where they are no more than a window. 0 <= overlap <
/// window.
std::vector<FrameWindow> context_windows(int64_t frames, int64_t window, int64_t overlap);

/// What a window's frames count in the mean over windows: 1, 2, 3, ... to the middle and back
/// (https://arxiv.org/abs/2310.15169, FreeNoise).
std::vector<double> pyramid_weights(int64_t frames);

}  // namespace frameshard
