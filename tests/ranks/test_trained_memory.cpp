// What training holds on a rank, counted by the allocator, against what a plan says.
#include <atomic>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>

#include "parallel/trained_parameters.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using frameshard::testing::check;
using frameshard::testing::mpi_world;
using frameshard::testing::on_ranks;

namespace {

// LibTorch's allocator of CPU memory while this object lives, with the bytes that are in use in this process.
// What it gave may be given back later. It gives no plain pointers, which oneDNN asks for: other tests must
// not find it.
class CountingAllocator final : public c10::Allocator {
 public:
  CountingAllocator() : before_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, priority); }
  ~CountingAllocator() { c10::SetCPUAllocator(before_, priority); }
  CountingAllocator(const CountingAllocator&) = delete;
  CountingAllocator& operator=(const CountingAllocator&) = delete;

  at::DataPtr allocate(size_t bytes) override {
    at::DataPtr memory = before_->allocate(bytes);
    void* data = memory.get();
    in_use += int64_t(bytes);
    return {data, new Held{std::move(memory), int64_t(bytes)}, &give_back, at::kCPU};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  static inline std::atomic<int64_t> in_use = 0;

 private:
  struct Held {
    at::DataPtr memory;
    int64_t bytes;
  };
  static void give_back(void* held) {
    in_use -= static_cast<Held*>(held)->bytes;
    delete static_cast<Held*>(held);
  }

  static constexpr uint8_t priority = 100;
  c10::Allocator* before_;
};

// Bytes in use, when all ranks have come here and none has gone on.
int64_t settled_bytes(Communicator& comm) {
  comm.barrier();
  const int64_t bytes = CountingAllocator::in_use;
  comm.barrier();
  return bytes;
}

constexpr int64_t unit_elements = 12 * 1024;  // 1 to 4 ranks divide it

// Two units of one weight each; as a model holds them.
struct Weights {
  at::Tensor first = at::ones({unit_elements}), second = at::ones({unit_elements});
};

}  // namespace

TEST_CASE("bytes held for weights and gradients are those of the plan") {
  const CountingAllocator counting;
  on_ranks({1, 2, 3, 4}, [](Communicator& comm) {
    const CommPtr group = comm.split(0, comm.rank(), "gradients"), gather = comm.split(0, 0, "weights");
    const int ranks_here = mpi_world() ? 1 : comm.size();
    for (int zero : {0, 1, 2, 3}) {
      const int64_t before = settled_bytes(comm);
      const auto held = [&] { return (settled_bytes(comm) - before) / ranks_here; };
      Weights weights;
      TrainedParameters parameters({{"first", &weights.first, 0}, {"second", &weights.second, 1}}, *group,
                                   *gather, {.zero = zero, .bucket_bytes = 1});
      const TrainedBytes plan = trained_bytes({.elements = 2 * unit_elements}, zero, comm.size());
      check(held() == plan.weights, fmt::format("weights with ZeRO {}", zero));
      for (int step = 0; step < 2; ++step) {
        parameters.begin_step();
        parameters.sum_next_backward();
        const auto whole = parameters.whole();
        ((weights.first * weights.first).sum() + (weights.second * weights.second).sum()).backward();
        parameters.finish_gradients();
      }
      check(
          held() == plan.weights + plan.gradients,
          fmt::format("ZeRO {}: {} bytes are held, {} planned", zero, held(), plan.weights + plan.gradients));
      const TrainedBytes gathered = trained_bytes(
          {.elements = 2 * unit_elements, .largest_unit = zero == 3 ? unit_elements : 0}, zero, comm.size());
      parameters.gather(1);
      check(held() == gathered.weights + gathered.gradients, fmt::format("ZeRO {}, a unit gathered", zero));
      parameters.release(1);
      parameters.publish();
      check(held() == plan.weights + plan.gradients, fmt::format("ZeRO {}, published", zero));
    }
  });
}
