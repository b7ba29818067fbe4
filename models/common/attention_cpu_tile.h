// The register tile that all of attention's products on a CPU go through, and the orders in memory that it
// reads. For attention_cpu_loops.h alone.
#pragma once

#include <algorithm>
#include <cstdint>

namespace frameshard::cpu {

/// Rows of a head: row i begins at data + i * stride and is contiguous.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride, rows;

  T* row(int64_t i) const { return data + i * stride; }
};

struct AttentionSizes {
  int64_t head_dim;
  int64_t dim;            ///< head_dim, up to whole panels
  int64_t queries, keys;  ///< up to whole blocks
  float scale;            ///< of the scores
};

// Vectors of the compiler's, at any address.
template <int Lanes>
struct Vectors;
#define FRAMESHARD_VECTORS(Lanes)                                                            \
  template <>                                                                                \
  struct Vectors<Lanes> {                                                                    \
    typedef float Floats __attribute__((vector_size(Lanes * 4), aligned(4), may_alias));     \
    typedef int32_t Integers __attribute__((vector_size(Lanes * 4), aligned(4), may_alias)); \
  };
FRAMESHARD_VECTORS(4)
FRAMESHARD_VECTORS(8)
FRAMESHARD_VECTORS(16)
#undef FRAMESHARD_VECTORS

// Forced into each caller: what is not would be compiled for the least processor.
#define FRAMESHARD_INLINE [[gnu::always_inline]] static inline

/// `Lanes` floats a vector; a tile is Rows rows by two vectors of columns, whose sums have to fit into
/// registers beside 3 more.
template <int Lanes, int Rows>
struct AttentionTile {
  using Vector = typename Vectors<Lanes>::Floats;
  using Integers = typename Vectors<Lanes>::Integers;

  static constexpr int64_t panel = 2 * Lanes;

  // Bytes of a vector at p, which need not be aligned.
  FRAMESHARD_INLINE Vector& at(float* p) { return *reinterpret_cast<Vector*>(p); }
  FRAMESHARD_INLINE const Vector& at(const float* p) { return *reinterpret_cast<const Vector*>(p); }

  // 2^t for t <= 0 (2^-126 below -126) to 1e-7: 2^n by the exponent's bits times a polynomial of degree 6 on
  // [-1/2, 1/2] (Cephes' exp2f). NaN stays.
  FRAMESHARD_INLINE Vector exp2(Vector t) {
    const Vector least = Vector{} - 126.0F, round = Vector{} + 12582912.0F;  // 1.5 * 2^23: its ulp is 1
    t = t < least ? least : t;
    const Vector shifted = t + round, r = t - (shifted - round);
    Vector p = r * 1.535336188e-4F + 1.339887440e-3F;
    p = p * r + 9.618437357e-3F;
    p = p * r + 5.550332548e-2F;
    p = p * r + 2.402264791e-1F;
    p = p * r + 6.931472028e-1F;
    p = p * r + 1.0F;
    const Vector power =
        reinterpret_cast<Vector>(reinterpret_cast<Integers>(p) + (reinterpret_cast<Integers>(shifted) << 23));
    return t == t ? power : t;  // the shifted payload of a NaN would change its exponent
  }

  // c [Rows, panel] = (add ? c : 0) + a b over the inner dim: a's element (row, i) at row * row_step +
  // i * inner_step, b's row i at i * ldb.
  template <int64_t row_step, int64_t inner_step>
  FRAMESHARD_INLINE void multiply(const float* a, const float* b, int64_t ldb, int64_t inner, float* c,
                                  int64_t ldc, bool add) {
    Vector sums[Rows][2];
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
      sums[row][0] = add ? at(c + row * ldc) : Vector{};
      sums[row][1] = add ? at(c + row * ldc + Lanes) : Vector{};
    }
    for (int64_t i = 0; i < inner; ++i) {
      const Vector b0 = at(b), b1 = at(b + Lanes);
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row) {
        const float x = a[row * row_step];
        sums[row][0] += x * b0;
        sums[row][1] += x * b1;
      }
      a += inner_step;
      b += ldb;
    }
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
      at(c + row * ldc) = sums[row][0];
      at(c + row * ldc + Lanes) = sums[row][1];
    }
  }

  // [rows][head_dim] -> [rows / group][dim][group], times factor; zeros up to whole groups.
  template <int64_t group>
  FRAMESHARD_INLINE void pack_columns(HeadRows<const float> x, const AttentionSizes& sizes, float factor,
                                      float* to) {
    const int64_t groups = (x.rows + group - 1) / group;
    std::fill(to, to + groups * group * sizes.dim, 0.0F);
    for (int64_t i = 0; i < x.rows; ++i) {
      const float* from = x.row(i);
      float* column = to + i / group * group * sizes.dim + i % group;
      for (int64_t d = 0; d < sizes.head_dim; ++d) column[d * group] = from[d] * factor;
    }
  }

  // [rows][head_dim] -> [rows][dim]
  FRAMESHARD_INLINE void pack_rows(HeadRows<const float> x, const AttentionSizes& sizes, float* to) {
    for (int64_t i = 0; i < x.rows; ++i, to += sizes.dim) {
      std::copy(x.row(i), x.row(i) + sizes.head_dim, to);
      std::fill(to + sizes.head_dim, to + sizes.dim, 0.0F);
    }
  }

  // scores [tiles * Rows][ld] of `panels` panels of keys.
  template <int64_t ld>
  FRAMESHARD_INLINE void score(const float* query_tiles, int64_t tiles, const float* key_panels,
                               int64_t panels, int64_t dim, float* scores) {
    for (int64_t p = 0; p < panels; ++p) {
      for (int64_t t = 0; t < tiles; ++t) {
        multiply<1, Rows>(query_tiles + t * Rows * dim, key_panels + p * panel * dim, panel, dim,
                          scores + t * Rows * ld + p * panel, ld, false);
      }
    }
  }
};

}  // namespace frameshard::cpu
