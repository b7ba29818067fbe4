#include "models/common/fused_cpu.h"

#include <cmath>

#include <ATen/Parallel.h>

#include "models/common/fused_cpu_loops.h"

namespace frameshard::cpu {
namespace {

FRAMESHARD_CLONES
void norm_modulate_row(const float* x, const float* scale, const float* shift, float* out, int64_t d,
                       float eps) {
  const auto [mean, factor] = layer_norm_of(x, d, eps);
  for (int64_t i = 0; i < d; ++i) out[i] = (x[i] - mean) * factor * (1.0F + scale[i]) + shift[i];
}

FRAMESHARD_CLONES
void rms_norm_row(const float* x, const float* weight, float* out, int64_t d, float eps) {
  const float factor = rms_norm_of(x, d, eps).factor;
  for (int64_t i = 0; i < d; ++i) out[i] = x[i] * factor * weight[i];
}

// Pairs (even, odd) times cosine + i sine, in place.
FRAMESHARD_CLONES
void rotate_head(float* x, const float* rope, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1], cosine = rope[2 * i], sine = rope[2 * i + 1];
    x[2 * i] = a * cosine - b * sine;
    x[2 * i + 1] = a * sine + b * cosine;
  }
}

// simd: `out` may be x itself, where a check for overlap would choose the plain loop.
FRAMESHARD_CLONES
void gelu_tanh_range(const float* x, float* out, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] / gelu_divisor(x[i]);
}

FRAMESHARD_CLONES
void channel_norm_silu_range(const float* x, const float* gamma, float* out, int64_t pixels,
                             int64_t channels) {
  const float root = std::sqrt(float(channels));
  for (int64_t p = 0; p < pixels; ++p) {
    const float* in = x + p * channels;
    float* to = out + p * channels;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < channels; ++c) squares += in[c] * in[c];
    const float length = std::sqrt(squares);
    const float factor = root / (length < 1e-12F ? 1e-12F : length);
    for (int64_t c = 0; c < channels; ++c) {
      const float v = in[c] * factor * gamma[c];
      to[c] = v / (1.0F + fast_exp(-v));
    }
  }
}

}  // namespace

void norm_modulate(const float* x, const float* scale, const float* shift, float* out, int64_t rows,
                   int64_t rows_per_batch, int64_t d, float eps) {
  at::parallel_for(0, rows, grain(d), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t batch = r / rows_per_batch;
      norm_modulate_row(x + r * d, scale + batch * d, shift + batch * d, out + r * d, d, eps);
    }
  });
}

void rms_norm_rotate(const float* x, int64_t stride, const float* weight, const float* rope, float* out,
                     int64_t rows, int64_t positions, int64_t d, int64_t heads, float eps) {
  const int64_t head_dim = d / heads;
  at::parallel_for(0, rows, grain(d), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = out + r * d;
      rms_norm_row(x + r * stride, weight, row, d, eps);
      if (!rope) continue;
      const float* turn = rope + r % positions * head_dim;
      for (int64_t h = 0; h < heads; ++h) rotate_head(row + h * head_dim, turn, head_dim / 2);
    }
  });
}

void gelu_tanh(const float* x, float* out, int64_t count) {
  at::parallel_for(0, count, 8192,
                   [&](int64_t begin, int64_t end) { gelu_tanh_range(x + begin, out + begin, end - begin); });
}

void channel_norm_silu(const float* x, const float* gamma, float* out, int64_t pixels, int64_t channels) {
  at::parallel_for(0, pixels, grain(channels), [&](int64_t begin, int64_t end) {
    channel_norm_silu_range(x + begin * channels, gamma, out + begin * channels, end - begin, channels);
  });
}

}  // namespace frameshard::cpu
