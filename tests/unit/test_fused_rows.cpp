// The row code of the CUDA kernels, run by one lane and by several that wait for each other, against ATen's
// operations.
#include <barrier>
#include <numeric>
#include <thread>

#include <c10/core/GradMode.h>

#include "models/common/fused.h"
#include "models/common/fused_cuda.h"
#include "models/common/layers.h"
#include "models/common/rope.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

// What the lanes of one row share.
struct Team {
  explicit Team(int size) : parts(size_t(size)), barrier(size) {}
  std::vector<float> parts;
  std::barrier<> barrier;
};

class Lane {
 public:
  Lane(Team& team, int index) : team_(team), index_(index) {}
  int index() const { return index_; }
  int count() const { return int(team_.parts.size()); }
  float sum(float value) const {
    team_.parts[size_t(index_)] = value;
    team_.barrier.arrive_and_wait();
    const float total = std::accumulate(team_.parts.begin(), team_.parts.end(), 0.0F);
    team_.barrier.arrive_and_wait();
    return total;
  }

 private:
  Team& team_;
  int index_;
};

template <class T, int W, class Operation>
void run_rows(const Operation& operation, int64_t rows, int lanes) {
  Team team(lanes);
  std::vector<std::jthread> threads;
  for (int lane = 0; lane < lanes; ++lane) {
    threads.emplace_back([&, lane] {
      for (int64_t r = 0; r < rows; ++r) operation.template row<T, W>(Lane(team, lane), r);
    });
  }
}

// As the kernels choose: packs where they fit. Returns whether they did.
template <class T, class Operation>
bool run(const Operation& operation, int64_t rows, int lanes) {
  constexpr int pack = 16 / int(sizeof(T));
  const bool packed = operation.takes_packs(pack);
  packed ? run_rows<T, pack>(operation, rows, lanes) : run_rows<T, rows::pair_width>(operation, rows, lanes);
  return packed;
}

// Element types of the same layout as CUDA's.
template <class Operation>
bool run(const Operation& operation, at::ScalarType dtype, int64_t rows, int lanes) {
  if (dtype == at::kFloat) return run<float>(operation, rows, lanes);
  if (dtype == at::kBFloat16) return run<c10::BFloat16>(operation, rows, lanes);
  return run<c10::Half>(operation, rows, lanes);
}

at::Tensor random(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return (at::randn(shape) + 0.5).to(dtype);
}

// The wanted result is computed in float32 from the same rounded input, so that only the last rounding
// differs.
bool is_close(const at::Tensor& got, const at::Tensor& wanted) {
  REQUIRE(got.sizes() == wanted.sizes());
  const double unit = got.scalar_type() == at::kFloat ? 2e-6 : got.scalar_type() == at::kHalf ? 1e-3 : 8e-3;
  return at::allclose(got.to(at::kFloat), wanted, /*rtol=*/unit, /*atol=*/4 * unit);
}

at::Tensor wide(const at::Tensor& x) {
  return x.to(at::kFloat);
}

}  // namespace

TEST_CASE("rows of norm and modulation") {
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  const int lanes = GENERATE(1, 3);
  const int64_t d = GENERATE(1, 7, 40, 100);
  const at::Tensor x = random({2, 3, d}, dtype), modulation = random({2, 6, d});
  const auto parts = modulation.chunk(6, 1);
  at::Tensor out = at::full_like(x, 9);
  const rows::NormModulate operation{.x = x.data_ptr(),
                                     .out = out.data_ptr(),
                                     .scale = parts[1].data_ptr<float>(),
                                     .shift = parts[4].data_ptr<float>(),
                                     .stride = d,
                                     .scale_stride = 6 * d,
                                     .shift_stride = 6 * d,
                                     .rows_per_batch = 3,
                                     .d = int(d),
                                     .eps = 1e-6F};
  CHECK(run(operation, dtype, 6, lanes) == (d % (dtype == at::kFloat ? 4 : 8) == 0));
  CHECK(is_close(out, unfused::norm_modulate(wide(x), parts[1], parts[4], 1e-6)));
}

TEST_CASE("rows of RMS norm and rotation") {
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  const int lanes = GENERATE(1, 3);
  const auto [heads, head_dim] =
      GENERATE(std::pair(1, 2), std::pair(3, 6), std::pair(2, 16), std::pair(4, 4));
  const bool rotated = GENERATE(true, false);
  const int64_t d = heads * head_dim;
  const at::Tensor rope = rope_table({1, 2, 2}, head_dim, 16, at::kCPU), weight = random({d}, dtype),
                   x = random({2, 4, 3 * d}, dtype).chunk(3, -1)[1];
  at::Tensor out = at::empty({2, 4, heads, head_dim}, dtype);
  const rows::RmsNormRotate operation{.x = x.data_ptr(),
                                      .weight = weight.data_ptr(),
                                      .out = out.data_ptr(),
                                      .rope = rotated ? static_cast<const float*>(rope.data_ptr()) : nullptr,
                                      .stride = 3 * d,
                                      .positions = 4,
                                      .d = int(d),
                                      .head_dim = head_dim,
                                      .eps = 1e-6F};
  run(operation, dtype, 8, lanes);
  const at::Tensor wanted =
      unfused::rms_norm_rotate(wide(x), wide(weight), heads, rotated ? rope : at::Tensor(), 1e-6);
  CHECK(is_close(out, wanted));
}

TEST_CASE("rows of a gated sum") {
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  const int lanes = GENERATE(1, 3);
  const int64_t d = GENERATE(1, 9, 64);
  const at::Tensor x = random({2, 3, d}, dtype), branch = random({2, 3, d}, dtype), gate = random({1, 1, d});
  const at::Tensor wanted = unfused::gated_sum(wide(x), wide(branch), gate);
  const rows::GatedSum operation{.x = x.data_ptr(),
                                 .branch = branch.data_ptr(),
                                 .gate = gate.data_ptr<float>(),
                                 .gate_stride = 0,
                                 .rows_per_batch = 3,
                                 .d = int(d)};
  run(operation, dtype, 6, lanes);
  CHECK(is_close(x, wanted));
}

TEST_CASE("rows of channel norm and SiLU") {
  const c10::NoGradGuard no_grad;
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kHalf);
  const int lanes = GENERATE(1, 3);
  const int64_t channels = GENERATE(1, 5, 96);
  const at::Tensor x = random({1, channels, 2, 3, 2}, dtype).contiguous(at::MemoryFormat::ChannelsLast3d),
                   gamma = random({channels, 1, 1, 1}, dtype);
  x.select(4, 0).zero_();  // pixels without a signal
  at::Tensor out = at::empty_like(x);
  const rows::ChannelNormSilu operation{
      .x = x.data_ptr(), .gamma = gamma.data_ptr(), .out = out.data_ptr(), .d = int(channels)};
  run(operation, dtype, 12, lanes);
  CHECK(is_close(out, unfused::channel_norm_silu(wide(x), wide(gamma))));
}

TEST_CASE("packs are taken where every row begins on 16 bytes") {
  const at::Tensor memory = at::zeros({256});
  float* base = memory.data_ptr<float>();
  const auto norm = [&](const float* x, int64_t stride, int d) {
    return rows::NormModulate{.x = x,
                              .out = base,
                              .scale = base,
                              .shift = base,
                              .stride = stride,
                              .scale_stride = 64,
                              .shift_stride = 64,
                              .rows_per_batch = 1,
                              .d = d,
                              .eps = 0};
  };
  CHECK(norm(base, 64, 16).takes_packs(4));
  CHECK_FALSE(norm(base + 1, 64, 16).takes_packs(4));
  CHECK_FALSE(norm(base, 63, 16).takes_packs(4));
  CHECK_FALSE(norm(base, 64, 14).takes_packs(4));
  // A rotation of heads that share a pack with others is done pair by pair.
  const auto rms = [&](int head_dim, const float* rope) {
    return rows::RmsNormRotate{.x = base,
                               .weight = base,
                               .out = base,
                               .rope = rope,
                               .stride = 24,
                               .positions = 1,
                               .d = 24,
                               .head_dim = head_dim,
                               .eps = 0};
  };
  CHECK(rms(8, base).takes_packs(4));
  CHECK(rms(6, nullptr).takes_packs(4));
  CHECK_FALSE(rms(6, base).takes_packs(4));
}

TEST_CASE("a tensor on a CPU is not for the kernels") {
  const c10::NoGradGuard no_grad;
  at::Tensor x = at::ones({1, 2, 4});
  const at::Tensor zero = at::zeros({1, 1, 4});
  CHECK_FALSE(gpu::norm_modulate(x, zero, zero, 1e-6).defined());
  CHECK_FALSE(gpu::rms_norm_rotate(x, at::ones({4}), 2, {}, 1e-6).defined());
  CHECK_FALSE(gpu::gated_sum(x, x, zero));
}

TEST_CASE("a layer with GELU") {
  const Linear layer{random({6, 5}), random({6})}, no_bias{layer.weight, {}};
  const at::Tensor x = random({2, 3, 5});
  for (const Linear& each : {layer, no_bias}) {
    const c10::NoGradGuard no_grad;
    CHECK(at::allclose(apply_gelu(each, x), at::gelu(apply(each, x), "tanh"), 1e-5, 1e-6));
  }
  CHECK(apply_gelu(layer, random({2, 5}).requires_grad_()).requires_grad());
}
