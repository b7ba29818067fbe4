// What the loops of fused_cpu.cpp and fused_cpu_backward.cpp share. For those two alone: they are compiled
// with flags of their own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

// One copy of each loop an instruction set, chosen when the program starts. The sanitizers start too late for
// that.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FRAMESHARD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FRAMESHARD_CLONES
#endif

namespace frameshard::cpu {

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

// GELU by tanh is x over this: 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
[[gnu::always_inline]] inline float gelu_divisor(float x) {
  return 1.0F + fast_exp(-1.59576912F * (x + 0.044715F * x * x * x));
}

// A row's normed values are (x - mean) * factor.
struct Norm {
  float mean, factor;
};

[[gnu::always_inline]] inline Norm layer_norm_of(const float* x, int64_t d, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < d; ++i) sum += x[i];
  const float mean = sum / float(d);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < d; ++i) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, 1.0F / std::sqrt(squares / float(d) + eps)};
}

[[gnu::always_inline]] inline Norm rms_norm_of(const float* x, int64_t d, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < d; ++i) squares += x[i] * x[i];
  return {0, 1.0F / std::sqrt(squares / float(d) + eps)};
}

// Rows a thread takes at least: about 32 KiB of them.
inline int64_t grain(int64_t row) {
  return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, row));
}

}  // namespace frameshard::cpu
