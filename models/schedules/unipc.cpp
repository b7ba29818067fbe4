// UniPC (https://arxiv.org/abs/2302.04867), data prediction, as diffusers 0.42.1 computes it. Its scalars are
// float32: at the first level 1 - sigma is 1e-6, whose rounding in float32 moves the result by more than our
// tolerance.
#include <cmath>

#include "core/error.h"
#include "models/schedules/flow_grid.h"

namespace frameshard {
namespace {

class UniPc final : public NoiseSchedule {
 public:
  UniPc(const FlowSettings& settings, int64_t steps)
      : settings_(settings),
        sigmas_(flow_sigmas(settings, steps)),
        timesteps_(flow_timesteps(settings, steps)) {}

  int64_t steps() const override { return int64_t(timesteps_.size()); }
  double timestep(int64_t i) const override { return timesteps_[size_t(i)]; }

  at::Tensor step(const at::Tensor& prediction, int64_t i, const at::Tensor& latents) override {
    at::Tensor sample = latents;
    const at::Tensor clean = sample - double(sigmas_[size_t(i)]) * prediction.to(at::kFloat);  // predicted x0
    const auto& off = settings_.no_corrector;
    if (i > 0 && std::find(off.begin(), off.end(), i - 1) == off.end()) sample = corrected(clean, i);
    history_.insert(history_.begin(), clean);
    if (int64_t(history_.size()) > settings_.order) history_.pop_back();
    order_ = order_at(i);
    last_sample_ = sample;
    return predicted(sample, i);
  }

  std::vector<at::Tensor> history() const override {
    std::vector<at::Tensor> tensors{last_sample_};
    tensors.insert(tensors.end(), history_.begin(), history_.end());
    return tensors;
  }
  void restore(std::vector<at::Tensor> tensors, int64_t steps_taken) override {
    require(tensors.size() >= 2 && steps_taken >= 1, "UniPC: no history after {} steps", steps_taken);
    last_sample_ = tensors[0];
    history_.assign(tensors.begin() + 1, tensors.end());
    order_ = order_at(steps_taken - 1);
  }

 private:
  // The coefficients of one update from level s to level t.
  struct Update {
    float h, phi_1, b_h, alpha, ratio;  // ratio: sigma_t / sigma_s
    std::vector<float> r;               // relative positions of older predictions, then 1
    std::vector<float> rhs;             // b of the paper, one an order
  };

  int64_t order_at(int64_t i) const {
    const int64_t order =
        settings_.lower_order_final ? std::min(settings_.order, steps() - i) : settings_.order;
    return std::min(order, int64_t(history_.size()));  // the first steps have no history yet
  }

  float lambda(int64_t i) const {
    const float sigma = sigmas_[size_t(i)];
    return std::log(1 - sigma) - std::log(sigma);
  }

  Update update(int64_t from, int64_t to, int64_t order) const {
    Update u;
    u.h = lambda(to) - lambda(from);
    const float hh = -u.h;
    u.phi_1 = std::expm1(hh);
    u.b_h = settings_.bh2 ? std::expm1(hh) : hh;
    u.alpha = 1 - sigmas_[size_t(to)];
    u.ratio = sigmas_[size_t(to)] / sigmas_[size_t(from)];
    for (int64_t k = 1; k < order; ++k) u.r.push_back((lambda(from - k) - lambda(from)) / u.h);
    u.r.push_back(1);
    float phi_k = u.phi_1 / hh - 1, factorial = 1;
    for (int64_t k = 1; k <= order; ++k) {
      u.rhs.push_back(phi_k * factorial / u.b_h);
      factorial *= float(k + 1);
      phi_k = phi_k / hh - 1 / factorial;
    }
    return u;
  }

  // The first `n` weights of the solution of the order's Vandermonde system.
  static std::vector<double> solve(const Update& u, int64_t n) {
    const auto options = at::TensorOptions().dtype(at::kFloat);
    at::Tensor rows = at::empty({n, n}, options), rhs = at::empty({n}, options);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) rows[i][j] = std::pow(u.r[size_t(j)], float(i));
      rhs[i] = u.rhs[size_t(i)];
    }
    const at::Tensor solution = at::linalg_solve(rows, rhs);
    return {solution.data_ptr<float>(), solution.data_ptr<float>() + n};
  }

  at::Tensor base(const Update& u, const at::Tensor& sample, const at::Tensor& clean) const {
    return double(u.ratio) * sample - double(u.alpha * u.phi_1) * clean;
  }

  // UniP: from level i to i + 1. The newest prediction is history_[0].
  at::Tensor predicted(const at::Tensor& sample, int64_t i) const {
    const Update u = update(i, i + 1, order_);
    const std::vector<double> weights = order_ == 2 ? std::vector<double>{0.5} : solve_predictor(u);
    at::Tensor result = base(u, sample, history_[0]);
    for (size_t k = 0; k < weights.size(); ++k) {
      const at::Tensor difference = (history_[k + 1] - history_[0]) / double(u.r[k]);
      result = result - double(u.alpha * u.b_h) * weights[k] * difference;
    }
    return result;
  }
  std::vector<double> solve_predictor(const Update& u) const {
    return order_ == 1 ? std::vector<double>{} : solve(u, order_ - 1);
  }

  // UniC: the sample at level i once more, now that the prediction there is known.
  at::Tensor corrected(const at::Tensor& clean, int64_t i) const {
    const Update u = update(i - 1, i, order_);
    const std::vector<double> weights = order_ == 1 ? std::vector<double>{0.5} : solve(u, order_);
    at::Tensor sum = weights.back() * (clean - history_[0]);
    for (size_t k = 0; k + 1 < weights.size(); ++k) {
      sum = sum + weights[k] * (history_[k + 1] - history_[0]) / double(u.r[k]);
    }
    return base(u, last_sample_, history_[0]) - double(u.alpha * u.b_h) * sum;
  }

  FlowSettings settings_;
  std::vector<float> sigmas_;
  std::vector<double> timesteps_;
  std::vector<at::Tensor> history_;  // predicted x0, newest first
  at::Tensor last_sample_;
  int64_t order_ = 1;
};

}  // namespace

std::unique_ptr<NoiseSchedule> make_unipc(const FlowSettings& settings, int64_t steps) {
  return std::make_unique<UniPc>(settings, steps);
}

}  // namespace frameshard
