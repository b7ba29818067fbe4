// Shares of the work that change between steps: the same result as one rank's.
#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/rebalance.h"
#include "parallel/comm/self.h"
#include "tests/support/rank_test.h"
#include "tests/support/small_model.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

using Numbers = std::vector<double>;

const at::Device cpu(at::kCPU);
constexpr int64_t steps = 10, text_tokens = 20;

DenoiseWork work_of(const SmallModel& model, const at::Tensor& latents) {
  return {model.checkpoint().facts(at::kFloat, at::kFloat),
          model.denoiser().token_count(latents.sizes().slice(1)), text_tokens};
}

struct Case {
  MeshShape mesh;
  AttentionShape attention;
  Numbers assumed, real;  // speeds of the ranks, as the shares begin and as they are
};

struct Denoised {
  at::Tensor latents;
  std::vector<ShareChange> changes;
  Numbers speeds;  // of this rank's cp group in the end
};

at::Tensor noise() {
  return initial_noise({1, 16, 3, 10, 6}, 5);  // 45 tokens
}

// Each rank says that it took what its part of the work takes at its real speed.
Denoised denoise(const SmallModel& model, Communicator& world, const Case& what) {
  const c10::NoGradGuard no_grad;
  ProcessMesh mesh(world, what.mesh, group_maker("mpi", cpu));
  const auto cp = size_t(what.mesh.cp), first = size_t(mesh.coord().cfg) * cp;
  const Numbers assumed(what.assumed.begin() + std::ptrdiff_t(first),
                        what.assumed.begin() + std::ptrdiff_t(first + cp));
  AttentionStrategy attention(mesh.cp(), what.attention, ExchangeOverlap::automatic, assumed);
  at::Tensor latents = noise();
  const DenoiseWork work = work_of(model, latents);
  Rebalance rebalance(mesh, attention, cpu, work);
  const TextContext text = model.denoiser().prepare(initial_noise({1, text_tokens, 32}, 71));
  const auto schedule = model.checkpoint().schedule({}, steps);
  for (int64_t i = 0; i < steps; ++i) {
    const ParallelSequence sequence(mesh.cp(), *attention, attention.divide(work.tokens));
    const at::Tensor time = at::full({1}, schedule->timestep(i));
    latents = schedule->step(model.denoiser().predict(latents, time, text, sequence), i, latents);
    const auto parts = parts_of_work(work, what.attention, attention.speeds());
    const double speed = what.real[size_t(world.rank())];
    rebalance.note(i + 1, parts[size_t(mesh.coord().cp)] / speed);
  }
  return {latents, rebalance.changes(), attention.speeds()};
}

at::Tensor denoised_by_one(const SmallModel& model) {
  return denoise(model, *make_self_communicator(), {.assumed = {1}, .real = {1}}).latents;
}

void check_parts(const Numbers& speeds, const Numbers& wanted) {
  double sum = 0, wanted_sum = 0;
  for (double speed : speeds) sum += speed;
  for (double speed : wanted) wanted_sum += speed;
  for (size_t i = 0; i < speeds.size(); ++i) {
    check(std::abs(speeds[i] / sum - wanted[i] / wanted_sum) < 1e-6,
          fmt::format("speeds {}, wanted {}", fmt::join(speeds, ":"), fmt::join(wanted, ":")));
  }
}

}  // namespace

TEST_CASE("attention with other speeds from one pass to the next") {
  const SmallModel model;
  const c10::NoGradGuard no_grad;
  const at::Tensor latents = noise(), time = at::full({1}, 500.0);
  const TextContext text = model.denoiser().prepare(initial_noise({1, text_tokens, 32}, 71));
  const DenoiseWork work = work_of(model, latents);
  const auto passes = [&](Communicator& comm, AttentionShape shape) {
    AttentionStrategy attention(comm, shape);
    std::vector<at::Tensor> made;
    for (const Numbers& all : {Numbers{}, Numbers{4, 2, 1, 1}, Numbers{1, 0, 5, 2}, Numbers{1, 1, 1, 1}}) {
      Numbers speeds = all;
      if (!speeds.empty()) speeds.resize(size_t(comm.size()));
      attention.set_speeds(speeds);
      check(attention.speeds() == speeds, "the speeds that were set");
      const ParallelSequence sequence(comm, *attention, attention.divide(work.tokens));
      made.push_back(model.denoiser().predict(latents, time, text, sequence));
    }
    return made;
  };
  const at::Tensor one = passes(*make_self_communicator(), {}).front();
  for (int ranks : {2, 3, 4}) {
    on_ranks({ranks}, [&](Communicator& comm) {
      for (const AttentionShape shape :
           {AttentionShape{ranks, 1}, AttentionShape{1, ranks}, AttentionShape{2, 2}}) {
        if (shape.ulysses * shape.ring != ranks) continue;
        for (const at::Tensor& each : passes(comm, shape)) {
          check_close(each, one, 1e-5, fmt::format("ulysses {} x ring {}", shape.ulysses, shape.ring));
        }
      }
    });
  }
}

TEST_CASE("speeds of another number of ranks are refused") {
  on_ranks({2}, [&](Communicator& comm) {
    AttentionStrategy attention(comm, {2, 1});
    bool refused = false;
    try {
      attention.set_speeds({1, 2, 3});
    } catch (const Error&) {
      refused = true;
    }
    check(refused && attention.speeds().empty(), "3 speeds for 2 ranks");
  });
}

TEST_CASE("a drift of the speeds gives new shares, and the same result") {
  const SmallModel model;
  const at::Tensor one = denoised_by_one(model);
  for (const AttentionShape shape : {AttentionShape{2, 1}, AttentionShape{1, 2}}) {
    on_ranks({2}, [&](Communicator& world) {
      const Denoised made = denoise(model, world, {{.cp = 2}, shape, {1, 1}, {3, 1}});
      check_close(made.latents, one, 1e-5, "2 ranks, of which one is slower");
      check(made.changes.size() == 1 && made.changes[0].step == int64_t(SpeedWatch::steps), "one change");
      check_parts(made.speeds, {3, 1});
      check_parts(made.changes[0].speeds, {3, 1});
    });
  }
}

TEST_CASE("each cp group of a replica has shares of its own, and all ranks hear of a change") {
  const SmallModel model;
  const at::Tensor one = denoised_by_one(model);
  on_ranks({4}, [&](Communicator& world) {
    const Denoised made = denoise(model, world, {{.cfg = 2, .cp = 2}, {2, 1}, {2, 1, 1, 1}, {2, 1, 1, 4}});
    check_close(made.latents, one, 1e-5, "4 ranks");
    check(made.changes.size() == 1 && made.changes[0].speeds.size() == 4, "one change on every rank");
    check_parts(made.speeds, world.rank() < 2 ? Numbers{2, 1} : Numbers{1, 4});
  });
}

TEST_CASE("no change where the speeds are as assumed, and none with one rank") {
  const SmallModel model;
  on_ranks({2}, [&](Communicator& world) {
    check(denoise(model, world, {{.cp = 2}, {2, 1}, {2, 1}, {20, 10}}).changes.empty(), "as assumed");
    check(denoise(model, world, {{.cfg = 2}, {1, 1}, {1, 1}, {1, 9}}).changes.empty(), "nothing to share");
  });
}

TEST_CASE("the first step is not measured, and one is no drift") {
  const SmallModel model;
  on_ranks({2}, [&](Communicator& world) {
    ProcessMesh mesh(world, {.cp = 2}, group_maker("mpi", cpu));
    AttentionStrategy attention(mesh.cp(), {2, 1});
    Rebalance rebalance(mesh, attention, cpu, work_of(model, noise()));
    check(rebalance.enabled(), "two ranks on CPUs");
    // Times of nothing at all say nothing of a speed: whatever they are, the call comes back on both ranks.
    rebalance.begin_step();
    check(!rebalance.end_step(1), "the first step warms up");
    rebalance.begin_step();
    check(!rebalance.end_step(2), "one step is no drift");
    check(rebalance.changes().empty(), "nothing was recorded");
  });
}

TEST_CASE("parts of the work: tokens for the products, heads and rings for the attention") {
  const SmallModel model;
  const DenoiseWork work = work_of(model, noise());
  const auto equal = [&](AttentionShape shape) { return parts_of_work(work, shape, Numbers{1, 1, 1, 1}); };
  for (const AttentionShape shape : {AttentionShape{4, 1}, AttentionShape{2, 2}, AttentionShape{1, 4}}) {
    double sum = 0;
    for (double part : equal(shape)) sum += part;
    CHECK(sum == Approx(1));
  }
  const auto parts = parts_of_work(work, {1, 2}, Numbers{2, 1});  // 30 and 15 tokens, all heads each
  CHECK(parts[0] == Approx(2.0 / 3));
  const auto none = parts_of_work(work, {2, 1}, Numbers{1, 0});
  CHECK((none[0] == Approx(1) && none[1] == 0));
}
