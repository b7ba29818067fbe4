#include "models/common/rope.h"

#include "core/error.h"

namespace frameshard {
namespace {

// Angles of one axis: [positions, dim / 2], float64.
at::Tensor axis_angles(int64_t positions, int64_t dim) {
  const at::Tensor exponents = at::arange(0, dim, 2, at::kDouble) / double(dim);
  const at::Tensor frequencies = at::pow(10000.0, exponents).reciprocal();
  return at::outer(at::arange(positions, at::kDouble), frequencies);
}

}  // namespace

at::Tensor rope_table(at::IntArrayRef grid, int64_t head_dim, int64_t max_positions,
                      const at::Device& device) {
  const int64_t side = 2 * (head_dim / 6);
  const int64_t dims[] = {head_dim - 2 * side, side, side};
  std::vector<at::Tensor> parts;
  for (int axis = 0; axis < 3; ++axis) {
    if (grid[size_t(axis)] > max_positions) {
      fail(ExitCode::config,
           "the video has {} positions along an axis; this model knows {} (rope_max_seq_len)",
           grid[size_t(axis)], max_positions);
    }
    std::vector<int64_t> shape{1, 1, 1, dims[axis] / 2};
    shape[size_t(axis)] = grid[size_t(axis)];
    parts.push_back(axis_angles(grid[size_t(axis)], dims[axis])
                        .view(shape)
                        .expand({grid[0], grid[1], grid[2], dims[axis] / 2}));
  }
  const at::Tensor angles = at::cat(parts, -1).reshape({grid[0] * grid[1] * grid[2], head_dim / 2});
  return at::complex(angles.cos().to(at::kFloat), angles.sin().to(at::kFloat)).to(device);
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& table) {
  const auto s = x.sizes();
  const at::Tensor pairs = at::view_as_complex(x.to(at::kFloat).reshape({s[0], s[1], s[2], s[3] / 2, 2}));
  return at::view_as_real(pairs * table.unsqueeze(1)).reshape(s).to(x.scalar_type());
}

}  // namespace frameshard
