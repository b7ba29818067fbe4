// What a model begins with that is trained from nothing.
#pragma once

#include "models/weights.h"

namespace frameshard {

/// Allocates every weight in its dtype on a device, as randomize_weights() does, and draws it:
///  - weights and biases of linear layers and convolutions are uniform in +-1/sqrt(inputs of an output), as
///    torch.nn.Linear and torch.nn.Conv begin (https://arxiv.org/abs/1502.01852 with a = sqrt(5));
///  - norms are 1, their biases 0;
///  - Wan's modulation tables ("scale_shift_table") are normal with deviation 1/sqrt(width), as diffusers'
///    WanTransformer3DModel begins;
///  - the layers of umT5 are normal with deviation 1/sqrt(inputs), its queries' divided by sqrt(head_dim) too
///    since T5 does not scale its scores, position biases with 1/sqrt(width), and the token embedding with 1,
///    as transformers' UMT5PreTrainedModel begins.
/// Drawn on the CPU in float32, in the order of the list, from one generator: the same seed gives the same
/// weights, rounded to the dtype, on every device. Parts of a whole are drawn each by itself.
void initialise_weights(const WeightList& list, at::ScalarType dtype, const at::Device& device,
                        uint64_t seed);

}  // namespace frameshard
