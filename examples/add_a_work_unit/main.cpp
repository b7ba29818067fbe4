// A work unit of your own: frames that are enlarged apart, over three ranks of unequal speed.
//
// A unit says what it costs and what shape its result has, and computes it. schedule() deals the units by
// cost over speed, compute_units() computes each on one rank and gives all results to all ranks.
//   add_a_work_unit            ranks are threads; under mpirun make the group with an MpiSession instead
#include <cstdio>

#include <ATen/ATen.h>

#include "parallel/comm/thread.h"
#include "parallel/work_units.h"

using namespace frameshard;

namespace {

at::Tensor enlarged(const at::Tensor& frames) {
  return at::upsample_bicubic2d(frames, {2 * frames.size(2), 2 * frames.size(3)}, false);
}

// Frames [n, 3, h, w] -> [n, 3, 2h, 2w].
class EnlargeUnit : public WorkUnit {
 public:
  explicit EnlargeUnit(at::Tensor frames) : frames_(std::move(frames)) {}
  double cost() const override { return double(frames_.numel()); }
  std::vector<int64_t> shape() const override {
    return {frames_.size(0), 3, 2 * frames_.size(2), 2 * frames_.size(3)};
  }
  at::Tensor compute() const override { return enlarged(frames_); }

 private:
  at::Tensor frames_;
};

}  // namespace

int main() {
  const at::Tensor video = at::rand({33, 3, 64, 48});
  const std::vector<double> speeds{2, 1, 0.5};
  const at::Tensor whole = enlarged(video);
  bool same = false;
  run_ranks(int(speeds.size()), [&](Communicator& group) {
    WorkUnits units;
    std::vector<double> costs;
    for (const at::Tensor& frames : video.split(5)) {  // 6 of 5 frames and one of 3
      units.push_back(std::make_unique<EnlargeUnit>(frames));
      costs.push_back(units.back()->cost());
    }
    const at::Tensor joined = at::cat(compute_units(units, speeds, group, video));
    if (group.rank() != 0) return;
    same = at::equal(joined, whole);
    const Deal deal = schedule(costs, speeds);
    for (size_t rank = 0; rank < deal.size(); ++rank) {
      std::printf("rank %zu, speed %g: %zu of %zu units\n", rank, speeds[rank], deal[rank].size(),
                  units.size());
    }
  });
  std::printf("%s\n", same ? "equal to the whole, to the bit" : "NOT equal to the whole");
  return same ? 0 : 1;
}
