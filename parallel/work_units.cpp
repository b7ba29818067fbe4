#include "parallel/work_units.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "core/error.h"

namespace frameshard {

Deal schedule(std::span<const double> costs, std::span<const double> speeds) {
  require(std::any_of(speeds.begin(), speeds.end(), [](double speed) { return speed > 0; }),
          "none of {} workers has a speed above 0", speeds.size());
  std::vector<size_t> order(costs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  Deal deal(speeds.size());
  std::vector<double> busy(speeds.size(), 0.0);  // seconds, or whatever cost over speed is
  for (const size_t unit : order) {
    size_t best = speeds.size();
    for (size_t worker = 0; worker < speeds.size(); ++worker) {
      if (speeds[worker] <= 0) continue;
      auto key = [&](size_t w) { return std::tuple(busy[w] + costs[unit] / speeds[w], busy[w], w); };
      if (best == speeds.size() || key(worker) < key(best)) best = worker;
    }
    deal[best].push_back(unit);
    busy[best] += costs[unit] / speeds[best];
  }
  for (auto& units : deal) std::sort(units.begin(), units.end());
  return deal;
}

double finish_time(const Deal& deal, std::span<const double> costs, std::span<const double> speeds) {
  double last = 0;
  for (size_t worker = 0; worker < deal.size(); ++worker) {
    double cost = 0;
    for (const size_t unit : deal[worker]) cost += costs[unit];
    if (cost > 0) last = std::max(last, cost / speeds[worker]);
  }
  return last;
}

std::vector<at::Tensor> unpacked_units(const at::Tensor& packed, const Deal& deal,
                                       std::span<const std::vector<int64_t>> shapes) {
  std::vector<at::Tensor> results(shapes.size());
  int64_t offset = 0;
  for (const auto& units : deal) {
    for (const size_t unit : units) {
      const int64_t count = c10::multiply_integers(shapes[unit]);
      results[unit] = packed.narrow(0, offset, count).view(shapes[unit]);
      offset += count;
    }
  }
  return results;
}

std::vector<at::Tensor> gather_units(const std::vector<at::Tensor>& mine, const Deal& deal,
                                     std::span<const std::vector<int64_t>> shapes, Communicator& group,
                                     const at::TensorOptions& options) {
  if (group.size() == 1) return mine;
  Counts counts(size_t(group.size()), 0);
  for (size_t rank = 0; rank < deal.size(); ++rank) {
    for (const size_t unit : deal[rank]) counts[rank] += c10::multiply_integers(shapes[unit]);
  }
  std::vector<at::Tensor> flat{at::empty({0}, options)};
  for (const at::Tensor& result : mine) flat.push_back(result.reshape({-1}));
  const at::Tensor packed = flat.size() == 2 ? flat[1].contiguous() : at::cat(flat);
  return unpacked_units(group.all_gather(packed, counts), deal, shapes);
}

std::vector<at::Tensor> compute_units(const WorkUnits& units, std::span<const double> speeds,
                                      Communicator& group, const at::Tensor& like) {
  std::vector<double> costs;
  std::vector<std::vector<int64_t>> shapes;
  for (const auto& unit : units) {
    costs.push_back(unit->cost());
    shapes.push_back(unit->shape());
  }
  const std::vector<double> alike(size_t(group.size()), 1.0);
  require(speeds.empty() || speeds.size() == alike.size(), "{} speeds for {} ranks", speeds.size(),
          alike.size());
  const Deal deal = schedule(costs, speeds.empty() ? std::span<const double>(alike) : speeds);
  std::vector<at::Tensor> mine;
  for (const size_t unit : deal[size_t(group.rank())]) {
    mine.push_back(units[unit]->compute());
    require(mine.back().sizes() == at::IntArrayRef(shapes[unit]) && mine.back().dtype() == like.dtype() &&
                mine.back().device() == like.device(),
            "work unit {} has made a tensor of another shape, type or device than it says", unit);
  }
  return gather_units(mine, deal, shapes, group, like.options());
}

}  // namespace frameshard
