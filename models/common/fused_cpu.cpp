#include "models/common/fused_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include <ATen/Parallel.h>

// One copy of each loop an instruction set, chosen when the program starts. The sanitizers start too late for
// that.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FRAMESHARD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FRAMESHARD_CLONES
#endif

namespace frameshard::cpu {
namespace {

// e^x to 2 units in the last place: 2^n times a polynomial on [-ln(2)/2, ln(2)/2] (the constants of Cephes'
// expf). Not std::exp, which compilers do not vectorise without changing what NaN means. Inlined into every
// clone.
[[gnu::always_inline]] inline float fast_exp(float x) {
  // Beyond these the power of 2 is 0 or infinity. So written, NaN stays.
  x = x < -88.0F ? -88.0F : x;
  x = x > 89.0F ? 89.0F : x;
  const float n = __builtin_rintf(x * 1.44269504F);
  const float r = x - n * 0.693359375F + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float exp_r = p * r * r + r + 1.0F;
  const int32_t bits = (int32_t(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);  // gcc 12 vectorises this, and not std::bit_cast
  return exp_r * power;
}

FRAMESHARD_CLONES
void norm_modulate_row(const float* x, const float* scale, const float* shift, float* out, int64_t d,
                       float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < d; ++i) sum += x[i];
  const float mean = sum / float(d);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < d; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0F / std::sqrt(squares / float(d) + eps);
  for (int64_t i = 0; i < d; ++i) out[i] = (x[i] - mean) * factor * (1.0F + scale[i]) + shift[i];
}

FRAMESHARD_CLONES
void rms_norm_row(const float* x, const float* weight, float* out, int64_t d, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < d; ++i) squares += x[i] * x[i];
  const float factor = 1.0F / std::sqrt(squares / float(d) + eps);
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

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)) with u = sqrt(2/pi) (x + 0.044715 x^3)
FRAMESHARD_CLONES
void gelu_tanh_range(float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float v = x[i];
    x[i] = v / (1.0F + fast_exp(-1.59576912F * (v + 0.044715F * v * v * v)));
  }
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

// Rows a thread takes at least: about 32 KiB of them.
int64_t grain(int64_t row) {
  return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, row));
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

void gelu_tanh(float* x, int64_t count) {
  at::parallel_for(0, count, 8192,
                   [&](int64_t begin, int64_t end) { gelu_tanh_range(x + begin, end - begin); });
}

void channel_norm_silu(const float* x, const float* gamma, float* out, int64_t pixels, int64_t channels) {
  at::parallel_for(0, pixels, grain(channels), [&](int64_t begin, int64_t end) {
    channel_norm_silu_range(x + begin * channels, gamma, out + begin * channels, end - begin, channels);
  });
}

}  // namespace frameshard::cpu
