// What a sample is made into at each training step: flow matching (https://arxiv.org/abs/2210.02747) with the
// noise levels of https://arxiv.org/abs/2403.03206.
#pragma once

#include <ATen/ATen.h>

#include "core/train_config.h"

namespace frameshard {

/// One noised sample. The model learns to tell noise - latents from `noisy` at `timestep`.
struct FlowSample {
  double level;       ///< sigma: noisy = (1 - level) latents + level noise
  at::Tensor noisy;   ///< [1, C, F, h, w] float32
  at::Tensor target;  ///< noise - latents
  double timestep() const { return 1000.0 * level; }
};

/// All random numbers of a sample from LibTorch's CPU generator, seeded with `seed`: first one float64 number
/// for the level (normal for logit_normal, else uniform), then one uniform float64 number for caption
/// dropout, then the noise as float32 normal numbers. logit_normal: the logistic function of mean + deviation
/// times the number. Levels are not limited: the ends of [0, 1], where rounding can take them, are finite
/// too.
struct SampleDraw {
  double level;    ///< in [0, 1], after the shift
  double dropout;  ///< in [0, 1): the caption is dropped where it is below train.caption_dropout
  at::Tensor noise;
};
SampleDraw draw_sample(uint64_t seed, at::IntArrayRef latent_shape, const NoiseConfig& noise, double shift);

FlowSample noised(const at::Tensor& latents, double level, const at::Tensor& noise);

}  // namespace frameshard
