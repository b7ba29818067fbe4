#include "models/common/text_rows.h"

#include <cmath>
#include <vector>

namespace frameshard {
namespace {

// Logarithms that `dtype` has exactly, whose exponentials add up to `count` within 1e-6 of it.
std::vector<double> logs_of(double count, at::ScalarType dtype) {
  // Rounded down, so that what is left is positive; by less than what rounding to `dtype` can add.
  const double step = dtype == at::kFloat || dtype == at::kDouble ? 0x1p-23 : 0x1p-7;
  std::vector<double> logs;
  for (double left = count; left > 1e-6 * count;) {
    const double log = std::log(left);
    const double below = log - step * std::abs(log);
    const at::Tensor nearest = at::scalar_tensor(log, at::kDouble).to(dtype).to(at::kDouble);
    double rounded = nearest.item<double>();
    if (rounded > log)
      rounded = at::scalar_tensor(below, at::kDouble).to(dtype).to(at::kDouble).item<double>();
    logs.push_back(rounded);
    left -= std::exp(rounded);
  }
  return logs;
}

}  // namespace

int64_t used_rows(const at::Tensor& text) {
  const at::Tensor rows = text.ne(0).any(-1).any(0).nonzero();
  return rows.numel() == 0 ? 0 : rows[-1].item<int64_t>() + 1;
}

TextRows text_rows(const at::Tensor& text, at::ScalarType dtype) {
  const int64_t used = used_rows(text), padding = text.size(1) - used;
  if (padding == 0) return {text, {}};
  const std::vector<double> logs = logs_of(double(padding), dtype);
  const auto rows = used + int64_t(logs.size());
  if (rows >= text.size(1)) return {text, {}};
  const at::Tensor weight =
      at::cat({at::zeros({used}, at::kDouble), at::tensor(logs, at::kDouble)}).to(text.device(), dtype);
  return {text.narrow(1, 0, rows), weight.view({1, 1, 1, rows})};
}

}  // namespace frameshard
