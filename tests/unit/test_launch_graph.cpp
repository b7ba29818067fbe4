// A function that is recorded and replayed, with a recorder of the tests' own, and where it is.
#include "models/common/launch_graph.h"
#include "models/pipeline.h"
#include "tests/support/catch.h"

using namespace frameshard;

namespace {

struct Counted {
  int computed = 0, recorded = 0, replayed = 0;
};

// Replays by computing again, on the memory that was recorded.
class FakeGraph final : public LaunchGraph {
 public:
  explicit FakeGraph(Counted& counted) : counted_(counted) {}
  void record(const std::function<void()>& work) override {
    ++counted_.recorded;
    work();
    --counted_.computed;  // on the host alone
    work_ = work;
  }
  void replay() override {
    ++counted_.replayed;
    work_();
  }

 private:
  Counted& counted_;
  std::function<void()> work_;
};

class FailingGraph final : public LaunchGraph {
 public:
  explicit FailingGraph(Counted& counted) : counted_(counted) {}
  void record(const std::function<void()>&) override {
    ++counted_.recorded;
    throw Error(ExitCode::internal, "operation not permitted when stream is capturing\nand a trace");
  }
  void replay() override { throw Error(ExitCode::internal, "there is no graph"); }

 private:
  Counted& counted_;
};

// a + 10 b into memory of its own, as a graph does: it is overwritten by the next call.
RecordedCall::Function weighted_sum(Counted& counted) {
  return [&counted, out = at::empty({2})](const RecordedCall::Inputs& inputs) {
    ++counted.computed;
    out.copy_(inputs[0] + 10 * inputs[1]);
    return out;
  };
}

void check_calls(RecordedCall& call) {
  for (int i = 0; i < 4; ++i) {
    const at::Tensor got = call({at::full({2}, i), at::full({2}, i + 1)});
    CHECK(got.sizes() == at::IntArrayRef({2}));
    CHECK(got.eq(i + 10 * (i + 1)).all().item<bool>());
  }
}

const at::Device cpu(at::kCPU), gpu(at::kCUDA, 0);

}  // namespace

TEST_CASE("the first call is plain, the second is recorded, all others replay it with new inputs") {
  Counted counted;
  RecordedCall call(weighted_sum(counted), [&] { return std::make_unique<FakeGraph>(counted); });
  call({at::zeros({2}), at::zeros({2})});
  CHECK(counted.recorded == 0);
  check_calls(call);
  CHECK(counted.recorded == 1);
  CHECK(counted.replayed == 4);
}

TEST_CASE("where recording fails, all calls are plain, and it is tried once") {
  Counted counted;
  RecordedCall call(weighted_sum(counted), [&] { return std::make_unique<FailingGraph>(counted); });
  check_calls(call);
  CHECK(counted.recorded == 1);
  CHECK(counted.computed == 4);
}

TEST_CASE("without a recorder all calls are plain") {
  Counted counted;
  RecordedCall call(weighted_sum(counted), {});
  check_calls(call);
  CHECK(counted.computed == 4);
}

TEST_CASE("inputs that change their shape are refused") {
  Counted counted;
  RecordedCall call(weighted_sum(counted), [&] { return std::make_unique<FakeGraph>(counted); });
  check_calls(call);
  CHECK_THROWS_AS(call({at::zeros({3}), at::zeros({2})}), Error);
}

TEST_CASE("a CPU has no recorder") {
  CHECK_FALSE(launch_graphs(cpu));
}

TEST_CASE("where steps are recorded") {
  CHECK(records_steps({.cuda_graph = "auto"}, gpu, 1, 4096));
  CHECK_FALSE(records_steps({.cuda_graph = "auto"}, gpu, 1, 4097));
  CHECK(records_steps({.cuda_graph = "on"}, gpu, 1, 100000));
  CHECK_FALSE(records_steps({.cuda_graph = "off"}, gpu, 1, 10));
  CHECK_FALSE(records_steps({.cuda_graph = "on"}, cpu, 1, 10));
  CHECK_FALSE(records_steps({.cuda_graph = "on"}, gpu, 2, 10));
  CHECK_FALSE(records_steps({.step_cache = 0.1, .cuda_graph = "on"}, gpu, 1, 10));
}
