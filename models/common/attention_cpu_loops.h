// Attention's loops over plain float32 memory, one head at a time, for any width of vectors. For
// attention_cpu.cpp alone, which compiles them once an instruction set.
//
// All products go through one register tile: Rows rows by two vectors of columns, whose sums stay in
// registers while the inner dim passes by. Scores of a block of queries and a block of keys stay in the cache
// between the two products (FlashAttention: https://arxiv.org/abs/2205.14135,
// https://arxiv.org/abs/2307.08691).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "models/common/attention_cpu_tile.h"

namespace frameshard::cpu {

/// A block of queries against all keys of a head.
struct AttentionForward {
  AttentionSizes sizes;
  HeadRows<const float> q;  ///< of this block
  int64_t key_count;
  const float *key_panels, *values;  ///< packed: panels of k, rows of v
  const float* bias;                 ///< of a key, or null
  HeadRows<float> output;
  float* sums;     ///< log of each row's sum of exponentials
  float* scratch;  ///< AttentionLoops::forward_scratch(dim) floats
};

/// A head: gradients of q, k and v from those of the output.
struct AttentionBackward {
  AttentionSizes sizes;
  HeadRows<const float> q, k, v, output, gy;
  const float* bias;  ///< of a key, or null
  const float* sums;  ///< of each query
  HeadRows<float> gq, gk, gv;
  float* scratch;  ///< AttentionLoops::backward_scratch(sizes) floats
};

template <int Lanes, int Rows>
struct AttentionLoops : AttentionTile<Lanes, Rows> {
  using Tile = AttentionTile<Lanes, Rows>;
  using Tile::at, Tile::exp2, Tile::pack_rows, Tile::panel;
  using typename Tile::Vector;

  static constexpr int64_t query_block = 96, key_block = 192, backward_key_block = 96;
  static_assert(query_block % Rows == 0 && backward_key_block % Rows == 0 && key_block % panel == 0 &&
                backward_key_block % panel == 0);
  static constexpr float log2_e = 1.44269504F, ln_2 = 0.693147181F;

  static constexpr int64_t forward_scratch(int64_t dim) { return query_block * (2 * dim + key_block + 2); }
  static constexpr int64_t backward_scratch(const AttentionSizes& s) {
    return s.dim * (3 * s.keys + 5 * s.queries + 2 * backward_key_block) +
           2 * query_block * backward_key_block + 2 * s.queries + s.keys;
  }

  /// What `forward` reads of a head's keys and values; of any part of them that begins at a whole panel.
  FRAMESHARD_INLINE void pack_keys(HeadRows<const float> k, HeadRows<const float> v,
                                   const AttentionSizes& sizes, float* key_panels, float* values) {
    Tile::template pack_columns<panel>(k, sizes, 1.0F, key_panels);
    pack_rows(v, sizes, values);
  }

  // scores += bias in units of log2; keys up to a whole panel get -infinity: 2^-126 beside a sum
  // of at least 1.
  FRAMESHARD_INLINE void add_bias(float* scores, const float* bias, int64_t keys) {
    if (bias) {
      for (int64_t n = 0; n < keys; ++n) scores[n] += bias[n] * log2_e;
    }
    for (int64_t n = keys; n % panel != 0; ++n) scores[n] = -std::numeric_limits<float>::infinity();
  }

  FRAMESHARD_INLINE float largest(const float* x, int64_t count, float so_far) {
    Vector most[2] = {at(x), at(x + Lanes)};
    for (int64_t n = panel; n < count; n += panel) {
      for (int j = 0; j < 2; ++j) {
        const Vector now = at(x + n + j * Lanes);
        most[j] = now > most[j] ? now : most[j];
      }
    }
    most[0] = most[0] > most[1] ? most[0] : most[1];
    for (int lane = 0; lane < Lanes; ++lane) so_far = std::max(so_far, most[0][lane]);
    return so_far;
  }

  // x = 2^(x - most); their sum.
  FRAMESHARD_INLINE float exponentials(float* x, int64_t count, float most) {
    Vector sums[2] = {};
    for (int64_t n = 0; n < count; n += panel) {
      for (int j = 0; j < 2; ++j) {
        Vector& now = at(x + n + j * Lanes);
        now = exp2(now - most);
        sums[j] += now;
      }
    }
    float sum = 0;
    for (int lane = 0; lane < Lanes; ++lane) sum += sums[0][lane] + sums[1][lane];
    return sum;
  }

  // Softmax over the blocks of keys so far, of one row: what was summed up is scaled to the new maximum.
  FRAMESHARD_INLINE void soften(float* scores, int64_t count, float* most, float* sum, float* output,
                                int64_t dim) {
    const float former = *most;
    *most = largest(scores, count, former);
    const float added = exponentials(scores, count, *most);
    if (*most > former) {
      const float shrink = std::exp2(former - *most);
      for (int64_t d = 0; d < dim; ++d) output[d] *= shrink;
      *sum *= shrink;
    }
    *sum += added;
  }

  FRAMESHARD_INLINE void forward(const AttentionForward& w) {
    const int64_t dim = w.sizes.dim, tiles = (w.q.rows + Rows - 1) / Rows;
    float* query_tiles = w.scratch;
    float* output = query_tiles + query_block * dim;
    float* scores = output + query_block * dim;
    float* most = scores + query_block * key_block;
    float* sums = most + query_block;
    Tile::template pack_columns<Rows>(w.q, w.sizes, w.sizes.scale * log2_e, query_tiles);
    std::fill(output, scores, 0.0F);
    std::fill(most, sums, -std::numeric_limits<float>::infinity());
    std::fill(sums, sums + query_block, 0.0F);
    for (int64_t first = 0; first < w.key_count; first += key_block) {
      const int64_t keys = std::min(key_block, w.key_count - first), panels = (keys + panel - 1) / panel;
      Tile::template score<key_block>(query_tiles, tiles, w.key_panels + first * dim, panels, dim, scores);
      for (int64_t m = 0; m < w.q.rows; ++m) {
        float* row = scores + m * key_block;
        add_bias(row, w.bias ? w.bias + first : nullptr, keys);
        soften(row, panels * panel, most + m, sums + m, output + m * dim, dim);
      }
      for (int64_t d = 0; d < dim; d += panel) {
        for (int64_t t = 0; t < tiles; ++t) {
          Tile::template multiply<key_block, 1>(scores + t * Rows * key_block, w.values + first * dim + d,
                                                dim, keys, output + t * Rows * dim + d, dim, true);
        }
      }
    }
    for (int64_t m = 0; m < w.q.rows; ++m) {
      const float share = 1.0F / sums[m];
      for (int64_t d = 0; d < w.sizes.head_dim; ++d) w.output.row(m)[d] = output[m * dim + d] * share;
      w.sums[m] = (most[m] + std::log2(sums[m])) * ln_2;
    }
  }

  // A head's operands of the backward pass, packed, and sums.
  struct BackwardRoom {
    float *key_panels, *value_panels, *keys;             // [keys, dim]
    float *query_tiles, *gy_tiles, *queries, *gys, *gq;  // [queries, dim]
    float *gk, *gv;                                      // [backward_key_block, dim]
    float *weights, *gradients;                          // [query_block, backward_key_block]
    float *sums, *products;                              // a query: log2 of its sum; gy . output
    float* bias;                                         // a key, in units of log2
  };

  FRAMESHARD_INLINE BackwardRoom divide(const AttentionSizes& s, float* scratch) {
    auto take = [&](int64_t count) {
      float* here = scratch;
      scratch += count;
      return here;
    };
    const int64_t of_keys = s.keys * s.dim, of_queries = s.queries * s.dim;
    BackwardRoom room;
    for (float** part : {&room.key_panels, &room.value_panels, &room.keys}) *part = take(of_keys);
    for (float** part : {&room.query_tiles, &room.gy_tiles, &room.queries, &room.gys, &room.gq}) {
      *part = take(of_queries);
    }
    for (float** part : {&room.gk, &room.gv}) *part = take(backward_key_block * s.dim);
    for (float** part : {&room.weights, &room.gradients}) *part = take(query_block * backward_key_block);
    for (float** part : {&room.sums, &room.products}) *part = take(s.queries);
    room.bias = take(s.keys);
    return room;
  }

  FRAMESHARD_INLINE void prepare(const AttentionBackward& w, const BackwardRoom& room) {
    const AttentionSizes& s = w.sizes;
    Tile::template pack_columns<panel>(w.k, s, 1.0F, room.key_panels);
    Tile::template pack_columns<panel>(w.v, s, 1.0F, room.value_panels);
    pack_rows(w.k, s, room.keys);
    Tile::template pack_columns<Rows>(w.q, s, s.scale * log2_e, room.query_tiles);
    Tile::template pack_columns<Rows>(w.gy, s, 1.0F, room.gy_tiles);
    pack_rows(w.q, s, room.queries);
    pack_rows(w.gy, s, room.gys);
    std::fill(room.gq, room.gq + s.queries * s.dim, 0.0F);
    for (int64_t m = 0; m < w.q.rows; ++m) {
      float product = 0;
#pragma omp simd reduction(+ : product)
      for (int64_t d = 0; d < s.head_dim; ++d) product += w.gy.row(m)[d] * w.output.row(m)[d];
      room.products[m] = product;
      room.sums[m] = w.sums[m] * log2_e;
    }
    for (int64_t n = 0; n < s.keys; ++n) room.bias[n] = w.bias && n < w.k.rows ? w.bias[n] * log2_e : 0.0F;
  }

  // In place of scores the weights p = 2^(score - sum), in place of gy vᵀ the gradients of the scores,
  // p (gy vᵀ - gy . output).
  FRAMESHARD_INLINE void weigh(float* scores, float* gradients, const float* bias, float sum, float product,
                               int64_t count) {
    for (int64_t n = 0; n < count; n += Lanes) {
      const Vector p = exp2(at(scores + n) + at(bias + n) - sum);
      at(scores + n) = p;
      at(gradients + n) = p * (at(gradients + n) - product);
    }
  }

  // gk and gv of one block of keys, and its part of gq, from one block of queries.
  FRAMESHARD_INLINE void backward_block(const AttentionBackward& w, const BackwardRoom& room,
                                        int64_t first_query, int64_t first_key) {
    const int64_t dim = w.sizes.dim, queries = std::min(query_block, w.q.rows - first_query),
                  keys = std::min(backward_key_block, w.k.rows - first_key);
    const int64_t query_tiles = (queries + Rows - 1) / Rows, key_tiles = (keys + Rows - 1) / Rows,
                  panels = (keys + panel - 1) / panel, from = first_query * dim;
    Tile::template score<backward_key_block>(room.query_tiles + from, query_tiles,
                                             room.key_panels + first_key * dim, panels, dim, room.weights);
    Tile::template score<backward_key_block>(
        room.gy_tiles + from, query_tiles, room.value_panels + first_key * dim, panels, dim, room.gradients);
    for (int64_t m = 0; m < queries; ++m) {
      weigh(room.weights + m * backward_key_block, room.gradients + m * backward_key_block,
            room.bias + first_key, room.sums[first_query + m], room.products[first_query + m],
            panels * panel);
    }
    for (int64_t d = 0; d < dim; d += panel) {
      for (int64_t t = 0; t < key_tiles; ++t) {
        const int64_t tile = t * Rows, to = tile * dim + d;
        Tile::template multiply<1, backward_key_block>(room.weights + tile, room.gys + from + d, dim, queries,
                                                       room.gv + to, dim, true);
        Tile::template multiply<1, backward_key_block>(room.gradients + tile, room.queries + from + d, dim,
                                                       queries, room.gk + to, dim, true);
      }
      for (int64_t t = 0; t < query_tiles; ++t) {
        Tile::template multiply<backward_key_block, 1>(room.gradients + t * Rows * backward_key_block,
                                                       room.keys + first_key * dim + d, dim, keys,
                                                       room.gq + from + t * Rows * dim + d, dim, true);
      }
    }
  }

  FRAMESHARD_INLINE void write(const float* from, int64_t dim, int64_t head_dim, float factor,
                               HeadRows<float> to) {
    for (int64_t i = 0; i < to.rows; ++i) {
      for (int64_t d = 0; d < head_dim; ++d) to.row(i)[d] = from[i * dim + d] * factor;
    }
  }

  FRAMESHARD_INLINE void backward(const AttentionBackward& w) {
    const BackwardRoom room = divide(w.sizes, w.scratch);
    prepare(w, room);
    const int64_t dim = w.sizes.dim, head_dim = w.sizes.head_dim;
    for (int64_t key = 0; key < w.k.rows; key += backward_key_block) {
      std::fill(room.gk, room.gk + backward_key_block * dim, 0.0F);
      std::fill(room.gv, room.gv + backward_key_block * dim, 0.0F);
      for (int64_t query = 0; query < w.q.rows; query += query_block) backward_block(w, room, query, key);
      const int64_t keys = std::min(backward_key_block, w.k.rows - key);
      write(room.gk, dim, head_dim, w.sizes.scale, {w.gk.row(key), w.gk.stride, keys});
      write(room.gv, dim, head_dim, 1.0F, {w.gv.row(key), w.gv.stride, keys});
    }
    write(room.gq, dim, head_dim, w.sizes.scale, w.gq);
  }
};

#undef FRAMESHARD_INLINE

}  // namespace frameshard::cpu
