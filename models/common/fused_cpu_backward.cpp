#include "models/common/fused_cpu_backward.h"

#include <algorithm>
#include <memory>
#include <vector>

#include <ATen/Parallel.h>

#include "models/common/fused_cpu_loops.h"

namespace frameshard::cpu {
namespace {

// The chunks' loops are no clones themselves.
FRAMESHARD_CLONES
Norm layer_norm_row(const float* x, int64_t d, float eps) {
  return layer_norm_of(x, d, eps);
}

FRAMESHARD_CLONES
Norm rms_norm_row(const float* x, int64_t d, float eps) {
  return rms_norm_of(x, d, eps);
}

// gx = factor * (h - mean(h) - xhat * mean(h * xhat)), h = gy * (1 + scale)
FRAMESHARD_CLONES
void layer_norm_backward_row(const float* x, Norm norm, const float* scale, const float* gy, float* gx,
                             int64_t d) {
  const float mean = norm.mean, factor = norm.factor;
  float sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
  for (int64_t i = 0; i < d; ++i) {
    const float h = gy[i] * (1.0F + scale[i]);
    sum += h;
    product += h * (x[i] - mean);
  }
  const float mean_h = sum / float(d), slope = product * factor / float(d) * factor;
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) {
    gx[i] = factor * (gy[i] * (1.0F + scale[i]) - mean_h - (x[i] - mean) * slope);
  }
}

// gx = factor * h - x * factor^3 * mean(h * x), h = gy * weight
FRAMESHARD_CLONES
void rms_norm_backward_row(const float* x, float factor, const float* weight, const float* gy, float* gx,
                           int64_t d) {
  float product = 0;
#pragma omp simd reduction(+ : product)
  for (int64_t i = 0; i < d; ++i) product += gy[i] * weight[i] * x[i];
  const float slope = product * factor / float(d) * factor;
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) gx[i] = factor * (gy[i] * weight[i] - x[i] * slope);
}

// Pairs (even, odd) times cosine - i sine.
FRAMESHARD_CLONES
void rotate_head_back(const float* gy, const float* rope, float* out, int64_t pairs) {
#pragma omp simd
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = gy[2 * i], b = gy[2 * i + 1], cosine = rope[2 * i], sine = rope[2 * i + 1];
    out[2 * i] = a * cosine + b * sine;
    out[2 * i + 1] = b * cosine - a * sine;
  }
}

FRAMESHARD_CLONES
void multiply_row(const float* a, const float* b, float* out, int64_t d) {
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) out[i] = a[i] * b[i];
}

FRAMESHARD_CLONES
void add_row(const float* a, float* total, int64_t d) {
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) total[i] += a[i];
}

// total += a * the normed values of x
FRAMESHARD_CLONES
void add_products(const float* a, const float* x, Norm norm, float* total, int64_t d) {
  const float mean = norm.mean, factor = norm.factor;
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) total[i] += a[i] * ((x[i] - mean) * factor);
}

// With s = 1 / divisor: s + x s (1 - s) 2 du/dx. Beyond 16 it is 0 or 1 in float32, and there products of 0
// and infinity would come. So written, NaN stays.
FRAMESHARD_CLONES
void gelu_tanh_backward_range(const float* x, const float* gy, float* gx, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    float v = x[i];
    v = v < -16.0F ? -16.0F : v;
    v = v > 16.0F ? 16.0F : v;
    const float s = 1.0F / gelu_divisor(v);
    gx[i] = gy[i] * (s + v * s * (1.0F - s) * (1.59576912F + 0.214064434F * v * v));
  }
}

constexpr int64_t chunk_rows = 64;

int64_t chunks_of_a_batch(const RowShape& shape) {
  return (shape.rows + chunk_rows - 1) / chunk_rows;
}

// A chunk of rows, which all belong to one batch. Counted through all batches.
struct Chunk {
  int64_t index, batch, first_row, end_row;
};

template <class Work>
void for_chunks(const RowShape& shape, const Work& work) {
  const int64_t per_batch = chunks_of_a_batch(shape);
  at::parallel_for(0, shape.batches * per_batch, grain(chunk_rows * shape.d),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t c = begin; c < end; ++c) {
                       const int64_t batch = c / per_batch, row = c % per_batch * chunk_rows;
                       const int64_t end_row = std::min(row + chunk_rows, shape.rows);
                       work(Chunk{c, batch, batch * shape.rows + row, batch * shape.rows + end_row});
                     }
                   });
}

// Sums over the rows of each batch: a part for each chunk, then all parts in their order.
class RowSums {
 public:
  // Into `total` [batches, d]; null: not wanted.
  RowSums(float* total, const RowShape& shape) : total_(total), shape_(shape) {
    const int64_t count = shape.batches * chunks_of_a_batch(shape) * shape.d;
    if (total) parts_ = std::make_unique_for_overwrite<float[]>(size_t(count));
  }

  // The chunk's part, zero; null: not wanted.
  float* begin(const Chunk& chunk) {
    if (!total_) return nullptr;
    float* part = parts_.get() + chunk.index * shape_.d;
    std::fill_n(part, shape_.d, 0.0F);
    return part;
  }

  void finish() {
    if (!total_) return;
    const int64_t d = shape_.d, per_batch = chunks_of_a_batch(shape_);
    at::parallel_for(0, d, grain(shape_.batches * per_batch), [&](int64_t first, int64_t end) {
      for (int64_t batch = 0; batch < shape_.batches; ++batch) {
        std::fill_n(total_ + batch * d + first, end - first, 0.0F);
        for (int64_t c = batch * per_batch; c < (batch + 1) * per_batch; ++c) {
          add_row(parts_.get() + c * d + first, total_ + batch * d + first, end - first);
        }
      }
    });
  }

 private:
  float* total_;
  RowShape shape_;
  std::unique_ptr<float[]> parts_;
};

}  // namespace

void norm_modulate_backward(const NormModulateBackward& work) {
  const int64_t d = work.shape.d;
  RowSums gscale(work.gscale, work.shape), gshift(work.gshift, work.shape);
  for_chunks(work.shape, [&](const Chunk& chunk) {
    const float* scale = work.scale + chunk.batch * d;
    float *gscale_part = gscale.begin(chunk), *gshift_part = gshift.begin(chunk);
    for (int64_t r = chunk.first_row; r < chunk.end_row; ++r) {
      const float *x = work.x + r * d, *gy = work.gy + r * d;
      const Norm norm = layer_norm_row(x, d, work.eps);
      if (work.gx) layer_norm_backward_row(x, norm, scale, gy, work.gx + r * d, d);
      if (gscale_part) add_products(gy, x, norm, gscale_part, d);
      if (gshift_part) add_row(gy, gshift_part, d);
    }
  });
  gscale.finish();
  gshift.finish();
}

void rms_norm_rotate_backward(const RmsNormRotateBackward& work) {
  const int64_t d = work.d, head_dim = d / work.heads;
  const RowShape shape{1, work.rows, d};  // the weight is the same for all batches
  RowSums gweight(work.gweight, shape);
  for_chunks(shape, [&](const Chunk& chunk) {
    float* gweight_part = gweight.begin(chunk);
    std::vector<float> unrotated(work.rope ? size_t(d) : 0);
    for (int64_t r = chunk.first_row; r < chunk.end_row; ++r) {
      const float *x = work.x + r * work.stride, *gy = work.gy + r * d;
      if (work.rope) {
        const float* turn = work.rope + r % work.positions * head_dim;
        for (int64_t h = 0; h < d; h += head_dim) {
          rotate_head_back(gy + h, turn, unrotated.data() + h, head_dim / 2);
        }
        gy = unrotated.data();
      }
      const Norm norm = rms_norm_row(x, d, work.eps);
      if (work.gx) rms_norm_backward_row(x, norm.factor, work.weight, gy, work.gx + r * d, d);
      if (gweight_part) add_products(gy, x, norm, gweight_part, d);
    }
  });
  gweight.finish();
}

void gated_sum_backward(const GatedSumBackward& work) {
  const int64_t d = work.shape.d;
  RowSums ggate(work.ggate, work.shape);
  for_chunks(work.shape, [&](const Chunk& chunk) {
    float* ggate_part = ggate.begin(chunk);
    for (int64_t r = chunk.first_row; r < chunk.end_row; ++r) {
      const float* gy = work.gy + r * d;
      if (work.gbranch) multiply_row(gy, work.gate + chunk.batch * d, work.gbranch + r * d, d);
      if (ggate_part) add_products(gy, work.branch + r * d, {0, 1}, ggate_part, d);
    }
  });
  ggate.finish();
}

void gelu_tanh_backward(const float* x, const float* gy, float* gx, int64_t count) {
  at::parallel_for(0, count, 8192, [&](int64_t begin, int64_t end) {
    gelu_tanh_backward_range(x + begin, gy + begin, gx + begin, end - begin);
  });
}

}  // namespace frameshard::cpu
