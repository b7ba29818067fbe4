// The arithmetic of one row of fused.h's operations, for the lanes that share it: the body of the CUDA
// kernels (cuda/fused.cu), and plain C++ for tests where no GPU is. All of it in float32, rounded once, at
// the end.
//
// Lanes is a class with index(), count(), and sum(float), which gives every lane the sum over all of them. A
// lane takes W neighbouring elements at a time: `pair_width` one by one, or a pack of 16 bytes in one access.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FRAMESHARD_DEVICE __device__
#else
#define FRAMESHARD_DEVICE
#endif

namespace frameshard::rows {

enum class Element { float32, bfloat16, float16 };

/// Any address and any d; the rotation wants pairs.
constexpr int pair_width = 2;

inline bool on_16_bytes(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

template <class T, int W>
struct alignas(sizeof(T) * W < 16 ? sizeof(T) * W : 16) Pack {
  T values[W];
};

/// Whether element j of those that a lane holds exists; `left` elements of the row begin with them.
template <int W>
FRAMESHARD_DEVICE inline bool inside(int j, int left) {
  return W != pair_width || j < left;
}

/// What is beyond the row is read as 0.
template <int W, class T>
FRAMESHARD_DEVICE inline void load(const T* from, int left, float (&to)[W]) {
  if constexpr (W == pair_width) {
    for (int j = 0; j < W; ++j) to[j] = j < left ? static_cast<float>(from[j]) : 0.0F;
  } else {
    const Pack<T, W> pack = *reinterpret_cast<const Pack<T, W>*>(from);
    for (int j = 0; j < W; ++j) to[j] = static_cast<float>(pack.values[j]);
  }
}

template <int W, class T>
FRAMESHARD_DEVICE inline void store(const float (&from)[W], int left, T* to) {
  if constexpr (W == pair_width) {
    for (int j = 0; j < W; ++j) {
      if (j < left) to[j] = static_cast<T>(from[j]);
    }
  } else {
    Pack<T, W> pack;
    for (int j = 0; j < W; ++j) pack.values[j] = static_cast<T>(from[j]);
    *reinterpret_cast<Pack<T, W>*>(to) = pack;
  }
}

/// Pairs (even, odd) times cosine + i sine, which `turns` holds in that order.
template <int W>
FRAMESHARD_DEVICE inline void rotate_pairs(float (&values)[W], const float (&turns)[W]) {
  for (int j = 0; j < W; j += 2) {
    const float a = values[j], b = values[j + 1];
    values[j] = a * turns[j] - b * turns[j + 1];
    values[j + 1] = a * turns[j + 1] + b * turns[j];
  }
}

template <int W, class T, class Lanes>
FRAMESHARD_DEVICE inline float sum_of_squares(const Lanes& lanes, const T* x, int d) {
  float squares = 0;
  for (int i = lanes.index() * W; i < d; i += lanes.count() * W) {
    float values[W];
    load(x + i, d - i, values);
    for (float value : values) squares += value * value;
  }
  return lanes.sum(squares);
}

/// norm_modulate: x and out of `d` elements a row, out dense; row r belongs to batch r / rows_per_batch.
struct NormModulate {
  const void* x;
  void* out;
  const float *scale, *shift;
  int64_t stride, scale_stride, shift_stride;  ///< between rows of x, and between batches
  int64_t rows_per_batch;
  int d;
  float eps;

  /// Whether packs of `width` elements lie on 16-byte boundaries.
  bool takes_packs(int width) const {
    return on_16_bytes(x) && on_16_bytes(out) && on_16_bytes(scale) && on_16_bytes(shift) && d % width == 0 &&
           stride % width == 0 && scale_stride % 4 == 0 && shift_stride % 4 == 0;
  }

  template <class T, int W, class Lanes>
  FRAMESHARD_DEVICE void row(const Lanes& lanes, int64_t r) const {
    const T* __restrict__ in = static_cast<const T*>(x) + r * stride;
    T* __restrict__ to = static_cast<T*>(out) + r * d;
    const float* scales = scale + r / rows_per_batch * scale_stride;
    const float* shifts = shift + r / rows_per_batch * shift_stride;
    float sum = 0, squares = 0, values[W], a[W], b[W];
    for (int i = lanes.index() * W; i < d; i += lanes.count() * W) {
      load(in + i, d - i, values);
      for (float value : values) sum += value;
    }
    const float mean = lanes.sum(sum) / float(d);
    for (int i = lanes.index() * W; i < d; i += lanes.count() * W) {
      load(in + i, d - i, values);
      for (int j = 0; j < W; ++j) {
        if (inside<W>(j, d - i)) squares += (values[j] - mean) * (values[j] - mean);
      }
    }
    const float factor = 1.0F / sqrtf(lanes.sum(squares) / float(d) + eps);
    for (int i = lanes.index() * W; i < d; i += lanes.count() * W) {
      load(in + i, d - i, values);
      load(scales + i, d - i, a);
      load(shifts + i, d - i, b);
      for (int j = 0; j < W; ++j) values[j] = (values[j] - mean) * factor * (1.0F + a[j]) + b[j];
      store(values, d - i, to + i);
    }
  }
};

/// rms_norm_rotate: row r has position r % positions.
struct RmsNormRotate {
  const void* x;
  const void* weight;  ///< [d]
  void* out;           ///< dense
  const float* rope;   ///< [positions, head_dim]: pairs of cosine and sine; null: not rotated
  int64_t stride, positions;
  int d, head_dim;  ///< head_dim is even where rope is given
  float eps;

  bool takes_packs(int width) const {
    return on_16_bytes(x) && on_16_bytes(weight) && on_16_bytes(out) && d % width == 0 &&
           stride % width == 0 && (!rope || (on_16_bytes(rope) && head_dim % width == 0));
  }

  template <class T, int W, class Lanes>
  FRAMESHARD_DEVICE void row(const Lanes& lanes, int64_t r) const {
    const T* __restrict__ in = static_cast<const T*>(x) + r * stride;
    T* __restrict__ to = static_cast<T*>(out) + r * d;
    const T* weights = static_cast<const T*>(weight);
    const float* position = rope ? rope + r % positions * head_dim : nullptr;
    const float factor = 1.0F / sqrtf(sum_of_squares<W>(lanes, in, d) / float(d) + eps);
    for (int i = lanes.index() * W; i < d; i += lanes.count() * W) {
      float values[W], factors[W], turns[W];
      load(in + i, d - i, values);
      load(weights + i, d - i, factors);
      for (int j = 0; j < W; ++j) values[j] *= factor * factors[j];
      if (position) {
        load(position + i % head_dim, W, turns);
        rotate_pairs(values, turns);
      }
      store(values, d - i, to + i);
    }
  }
};

/// gated_sum, into x: rows of x and branch dense.
struct GatedSum {
  void* x;
  const void* branch;
  const float* gate;
  int64_t gate_stride, rows_per_batch;
  int d;

  bool takes_packs(int width) const {
    return on_16_bytes(x) && on_16_bytes(branch) && on_16_bytes(gate) && d % width == 0 &&
           gate_stride % 4 == 0;
  }

  template <class T, int W, class Lanes>
  FRAMESHARD_DEVICE void row(const Lanes& lanes, int64_t r) const {
    T* sum = static_cast<T*>(x) + r * d;
    const T* __restrict__ added = static_cast<const T*>(branch) + r * d;
    const float* gates = gate + r / rows_per_batch * gate_stride;
    for (int i = lanes.index() * W; i < d; i += lanes.count() * W) {
      float values[W], a[W], b[W];
      load(sum + i, d - i, values);
      load(added + i, d - i, a);
      load(gates + i, d - i, b);
      for (int j = 0; j < W; ++j) values[j] += a[j] * b[j];
      store(values, d - i, sum + i);
    }
  }
};

/// channel_norm_silu: a row is a pixel's `d` channels; x and out dense.
struct ChannelNormSilu {
  const void* x;
  const void* gamma;  ///< [d]
  void* out;
  int d;

  bool takes_packs(int width) const {
    return on_16_bytes(x) && on_16_bytes(gamma) && on_16_bytes(out) && d % width == 0;
  }

  template <class T, int W, class Lanes>
  FRAMESHARD_DEVICE void row(const Lanes& lanes, int64_t r) const {
    const T* __restrict__ in = static_cast<const T*>(x) + r * d;
    T* __restrict__ to = static_cast<T*>(out) + r * d;
    const T* factors = static_cast<const T*>(gamma);
    const float length = sqrtf(sum_of_squares<W>(lanes, in, d));
    const float factor = sqrtf(float(d)) / (length < 1e-12F ? 1e-12F : length);  // so written, NaN stays
    for (int i = lanes.index() * W; i < d; i += lanes.count() * W) {
      float values[W], a[W];
      load(in + i, d - i, values);
      load(factors + i, d - i, a);
      for (int j = 0; j < W; ++j) {
        const float v = values[j] * factor * a[j];
        values[j] = v / (1.0F + expf(-v));
      }
      store(values, d - i, to + i);
    }
  }
};

}  // namespace frameshard::rows
