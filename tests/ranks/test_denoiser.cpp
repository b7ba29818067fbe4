// The whole transformer and the whole denoising loop over n ranks against one rank, with random weights.
#include <filesystem>

#include <c10/core/GradMode.h>
#include <unistd.h>

#include "core/rng.h"
#include "models/pipeline.h"
#include "parallel/comm/self.h"
#include "parallel/plan.h"
#include "tests/support/random_folder.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

namespace fs = std::filesystem;

const at::Device cpu(at::kCPU);

// A model of random weights. Every process makes the same one in a place of its own; threads share it.
class RandomModel {
 public:
  explicit RandomModel(int64_t heads, at::ScalarType dtype = at::kFloat) {
    FolderSizes sizes;
    sizes.heads = heads, sizes.head_dim = 12;
    write_random_folder(folder_, sizes, fs::path(FRAMESHARD_SOURCE_DIR) / "examples/shapes/tokenizer");
    checkpoint_ = open_checkpoint(folder_);
    denoiser_ = checkpoint_->load_denoiser({dtype, cpu});
    facts_ = checkpoint_->facts(dtype, at::kFloat);
  }
  ~RandomModel() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  RandomModel(const RandomModel&) = delete;
  RandomModel& operator=(const RandomModel&) = delete;

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const Denoiser& denoiser() const { return *denoiser_; }
  const ModelFacts& facts() const { return facts_; }

 private:
  fs::path folder_ = fs::temp_directory_path() / ("frameshard_denoiser_" + std::to_string(::getpid()));
  CheckpointPtr checkpoint_;
  std::unique_ptr<Denoiser> denoiser_;
  ModelFacts facts_;
};

Conditioning random_text() {
  return {.cond = {initial_noise({1, 20, 32}, 71)}, .uncond = initial_noise({1, 20, 32}, 72)};
}

at::Tensor predict(const RandomModel& model, Communicator& comm, AttentionShape shape,
                   const Partition& tokens) {
  const c10::NoGradGuard no_grad;
  const AttentionStrategy attention(comm, shape);
  const ParallelSequence sequence(comm, *attention, tokens);
  return model.denoiser().predict(initial_noise({1, 16, 3, 10, 6}, 73), at::full({1}, 423.0),
                                  model.denoiser().prepare(random_text().cond[0]), sequence);
}

at::Tensor predict_alone(const RandomModel& model) {
  return predict(model, *make_self_communicator(), {}, Partition::even(45, 1));
}

RequestConfig small_request(double guidance_scale = 5) {
  RequestConfig request;
  request.width = 48, request.height = 80, request.num_frames = 9;  // latents [16, 3, 10, 6], 45 tokens
  request.num_inference_steps = 4, request.guidance_scale = guidance_scale, request.max_sequence_length = 20;
  return request;
}

struct Denoised {
  at::Tensor latents;
  int64_t bytes_sent;
};

// One rank's part in a sample, with the mesh and the strategy that a plan chose.
Denoised denoise(const RandomModel& model, Communicator& world, MeshShape shape,
                 AttentionShape attention_shape, const RequestConfig& request) {
  ProcessMesh mesh(world, shape, group_maker("mpi", cpu));
  const AttentionStrategy attention(mesh.cp(), attention_shape);
  const auto schedule = model.checkpoint().schedule({}, request.num_inference_steps);
  RequestConfig mine = request;
  mine.seed += mesh.coord().dp;  // replicas work on samples of their own
  int64_t steps = 0;
  const at::Tensor latents =
      DenoiseLoop(model.denoiser(), mesh, attention, cpu)
          .run(mine, random_text(), *schedule, {.latents = starting_noise(mine, 0, model.denoiser())},
               [&](const DenoiseState& state) { check(state.steps == ++steps, "a call after each step"); });
  check(steps == request.num_inference_steps, "as many calls as steps");
  return {latents, mesh.cp().stats().bytes_sent + mesh.cfg().stats().bytes_sent + attention.bytes_sent()};
}

at::Tensor denoise_alone(const RandomModel& model, RequestConfig request, int64_t seed = 0) {
  request.seed = seed;
  return denoise(model, *make_self_communicator(), {}, {}, request).latents;
}

void check_predictions(const std::vector<int>& ulysses_sizes, int ranks, int64_t heads) {
  const RandomModel model(heads);
  const at::Tensor one = predict_alone(model);
  on_ranks({ranks}, [&](Communicator& comm) {
    for (int ulysses : ulysses_sizes) {
      const AttentionShape shape{.ulysses = ulysses, .ring = ranks / ulysses};
      const at::Tensor got = predict(model, comm, shape, Partition::even(45, ranks));
      check_close(got, one, 1e-5, fmt::format("prediction, ulysses {} x ring {}", shape.ulysses, shape.ring));
    }
  });
}

// What the groups count in a run equals the plan's estimate for a step, times the steps, on every rank.
void check_bytes(at::ScalarType dtype, MeshShape mesh, AttentionShape attention) {
  const RandomModel model(4, dtype);
  RunConfig config;
  config.request = small_request();
  config.request->height = 64, config.request->width = 64;  // 48 tokens: they divide, as do the heads
  config.infer.diffusion = {.cp_size = {mesh.cp}, .cfg_size = {mesh.cfg}, .dp_size = {mesh.dp}};
  config.infer.attention = {.ulysses_size = {attention.ulysses}, .ring_size = {attention.ring}};
  PlanMachine machine;
  machine.world = mesh.ranks();
  const RunPlan plan = make_plan(config, model.facts(), machine);
  on_ranks({mesh.ranks()}, [&](Communicator& world) {
    const int64_t sent = denoise(model, world, plan.mesh, plan.attention, *config.request).bytes_sent;
    const double ratio = double(sent) / double(plan.costs.moved_bytes * config.request->num_inference_steps);
    check(std::abs(ratio - 1) < 0.02,
          fmt::format("rank {} sent {:.3f} of what the plan says", world.rank(), ratio));
  });
}

}  // namespace

TEST_CASE("a prediction of one rank is finite and not constant") {
  const at::Tensor one = predict_alone(RandomModel(7));
  CHECK(one.sizes() == at::IntArrayRef({1, 16, 3, 10, 6}));
  CHECK(at::isfinite(one).all().item<bool>());
  CHECK(one.std().item<double>() > 0.01);
}

TEST_CASE("predictions over 2 ranks") {
  check_predictions({2, 1}, 2, 7);
}
TEST_CASE("predictions over 3 ranks") {
  check_predictions({3, 1}, 3, 7);
}
TEST_CASE("predictions over 4 ranks") {
  check_predictions({4, 2, 1}, 4, 7);
}
TEST_CASE("predictions over 5 ranks") {
  check_predictions({5, 1}, 5, 7);
}
TEST_CASE("predictions with fewer heads than ranks") {
  check_predictions({3, 1}, 3, 2);
}

TEST_CASE("predictions with pieces of unequal speeds") {
  const RandomModel model(7);
  const at::Tensor one = predict_alone(model);
  on_ranks({2, 3, 4}, [&](Communicator& comm) {
    std::vector<double> speeds;
    for (int i = 0; i < comm.size(); ++i) speeds.push_back(1 + 2 * i);
    const Partition tokens = Partition::weighted(45, speeds);
    check_close(predict(model, comm, {comm.size(), 1}, tokens), one, 1e-5, "ulysses");
    check_close(predict(model, comm, {1, comm.size()}, tokens), one, 1e-5, "ring");
  });
}

TEST_CASE("the loop over both guidance branches") {
  const RandomModel model(7);
  const at::Tensor one = denoise_alone(model, small_request());
  on_ranks({2}, [&](Communicator& world) {
    check_close(denoise(model, world, {1, 2, 1}, {}, small_request()).latents, one, 1e-5, "latents");
  });
}

TEST_CASE("the loop over guidance and sequence") {
  const RandomModel model(7);
  const at::Tensor one = denoise_alone(model, small_request());
  on_ranks({4}, [&](Communicator& world) {
    check_close(denoise(model, world, {1, 2, 2}, {2, 1}, small_request()).latents, one, 1e-5,
                "latents, ulysses");
    check_close(denoise(model, world, {1, 2, 2}, {1, 2}, small_request()).latents, one, 1e-5,
                "latents, ring");
  });
}

TEST_CASE("the loop over the sequence alone, with and without guidance") {
  const RandomModel model(7);
  const at::Tensor guided = denoise_alone(model, small_request()),
                   plain = denoise_alone(model, small_request(1));
  CHECK(relative_error(guided, plain) > 0.01);
  on_ranks({2, 3, 5}, [&](Communicator& world) {
    const MeshShape shape{.dp = 1, .cfg = 1, .cp = world.size()};
    check_close(denoise(model, world, shape, {world.size(), 1}, small_request()).latents, guided, 1e-5,
                "guided");
    check_close(denoise(model, world, shape, {1, world.size()}, small_request(1)).latents, plain, 1e-5,
                "not guided");
  });
}

TEST_CASE("replicas make what one rank makes of their seeds") {
  const RandomModel model(7);
  const at::Tensor seeds[] = {denoise_alone(model, small_request(), 0),
                              denoise_alone(model, small_request(), 1)};
  CHECK(relative_error(seeds[0], seeds[1]) > 0.1);
  on_ranks({2, 4}, [&](Communicator& world) {
    const MeshShape shape{.dp = 2, .cfg = 1, .cp = world.size() / 2};
    const Denoised mine = denoise(model, world, shape, {shape.cp, 1}, small_request());
    check_close(mine.latents, seeds[coord_of(world.rank(), shape).dp], 1e-5, "latents");
    if (world.size() == 2) check(mine.bytes_sent == 0, "replicas exchange nothing");
  });
}

TEST_CASE("every rank ends with the same bits") {
  const RandomModel model(7);
  on_ranks({2, 3, 4, 5}, [&](Communicator& world) {
    const MeshShape shape{
        .dp = 1, .cfg = world.size() == 4 ? 2 : 1, .cp = world.size() == 4 ? 2 : world.size()};
    const at::Tensor mine = denoise(model, world, shape, {shape.cp, 1}, small_request()).latents;
    at::Tensor first = mine.clone();
    world.broadcast(first, 0);
    check(at::equal(mine, first), "latents of rank 0");
  });
}

TEST_CASE("bytes of a plan: the sequence over 2 ranks") {
  check_bytes(at::kFloat, {.dp = 1, .cfg = 1, .cp = 2}, {.ulysses = 2, .ring = 1});
  check_bytes(at::kFloat, {.dp = 1, .cfg = 1, .cp = 2}, {.ulysses = 1, .ring = 2});
}

TEST_CASE("bytes of a plan: the sequence over 2 x 2 ranks, and both branches") {
  check_bytes(at::kFloat, {.dp = 1, .cfg = 1, .cp = 4}, {.ulysses = 2, .ring = 2});
  check_bytes(at::kFloat, {.dp = 1, .cfg = 2, .cp = 2}, {.ulysses = 2, .ring = 1});
}

TEST_CASE("bytes of a plan: both branches") {
  check_bytes(at::kFloat, {.dp = 1, .cfg = 2, .cp = 1}, {});
}

TEST_CASE("bytes of a plan in bfloat16") {
  check_bytes(at::kBFloat16, {.dp = 1, .cfg = 1, .cp = 2}, {.ulysses = 2, .ring = 1});
  check_bytes(at::kBFloat16, {.dp = 1, .cfg = 2, .cp = 1}, {});
}
