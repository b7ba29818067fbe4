// Vectorised float32 loops of fused.h, over plain memory. Rows are divided over the threads of this process;
// each row's result does not depend on how.
#pragma once

#include <cstdint>

namespace frameshard::cpu {

/// `rows` rows of `d` elements; row r belongs to batch r / rows_per_batch of scale and shift [batch, d].
void norm_modulate(const float* x, const float* scale, const float* shift, float* out, int64_t rows,
                   int64_t rows_per_batch, int64_t d, float eps);

/// Row r starts at x + r * stride and has position r % positions in `rope` (d / heads / 2 pairs of cosine and
/// sine a position; null: not rotated). Written densely.
void rms_norm_rotate(const float* x, int64_t stride, const float* weight, const float* rope, float* out,
                     int64_t rows, int64_t positions, int64_t d, int64_t heads, float eps);

/// `out` may be x.
void gelu_tanh(const float* x, float* out, int64_t count);

/// `pixels` rows of `channels`.
void channel_norm_silu(const float* x, const float* gamma, float* out, int64_t pixels, int64_t channels);

}  // namespace frameshard::cpu
