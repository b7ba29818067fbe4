// What a GPU does beside its host: recorded launches, flags that are read later, exchanges on a stream of
// their own. Needs a GPU, as test_cuda.cpp; exchanges between two need two.
#include <filesystem>

#include <c10/core/GradMode.h>
#include <unistd.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/rng.h"
#include "models/checked_steps.h"
#include "models/common/attention_kernel.h"
#include "models/common/launch_graph.h"
#include "parallel/comm/backends.h"
#include "parallel/comm/self.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_folder.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using namespace frameshard::testing;
using frameshard::test::caught;

namespace {

namespace fs = std::filesystem;

const at::Device gpu(at::kCUDA, 0);

// The latents of a request of 6 steps, alone on the GPU.
at::Tensor denoise(const Checkpoint& checkpoint, const Denoiser& denoiser, const std::string& cuda_graph,
                   double guidance_scale) {
  RequestConfig request;
  request.width = 48, request.height = 80, request.num_frames = 9;
  request.num_inference_steps = 6, request.guidance_scale = guidance_scale, request.max_sequence_length = 20;
  const CommPtr self = make_self_communicator();
  ProcessMesh mesh(*self, {}, group_maker("mpi", gpu));
  const AttentionStrategy attention(mesh.cp(), {});
  const auto schedule = checkpoint.schedule({}, request.num_inference_steps);
  const Conditioning text{.cond = {initial_noise({1, 20, 32}, 71)}, .uncond = initial_noise({1, 20, 32}, 72)};
  int64_t steps = 0;
  at::Tensor latents = DenoiseLoop(denoiser, mesh, attention, gpu, {.cuda_graph = cuda_graph})
                           .run(request, text, *schedule, {.latents = starting_noise(request, 0, denoiser)},
                                [&](const DenoiseState& state) { CHECK(state.steps == ++steps); });
  CHECK(steps == request.num_inference_steps);
  return latents.cpu();
}

// A group over GPUs of this process, a rank and a thread each.
void on_gpus(int ranks, const std::function<void(Communicator&, const at::Device&)>& body) {
  run_ranks(ranks, [&](Communicator& world) {
    const at::Device device(at::kCUDA, c10::DeviceIndex(world.rank()));
    use_device(device);
    const CommPtr group = group_maker("nccl", device)(world.split(0, world.rank(), "gpus"));
    body(*group, device);
    synchronize(device);
  });
}

}  // namespace

TEST_CASE("a recorded call gives what the function gives, for new inputs too") {
  if (mpi_world()) return;
  const c10::NoGradGuard no_grad;
  const auto function = [](const RecordedCall::Inputs& inputs) {
    return at::matmul(inputs[0], inputs[0]).relu() + inputs[1];
  };
  int recorded = 0;
  const LaunchGraphMaker graphs = launch_graphs(gpu);
  REQUIRE(graphs);
  RecordedCall call(function, [&] {
    ++recorded;
    return graphs();
  });
  for (uint64_t seed : {1, 2, 3, 4}) {
    const RecordedCall::Inputs inputs{initial_noise({33, 33}, seed).to(gpu),
                                      initial_noise({33}, seed + 9).to(gpu)};
    CHECK(at::allclose(call(inputs), function(inputs), 1e-5, 1e-5));
  }
  CHECK(recorded == 1);
}

TEST_CASE("a call that waits for the device is not recorded, and goes on as it is") {
  if (mpi_world()) return;
  const auto function = [](const RecordedCall::Inputs& inputs) {
    return inputs[0] * inputs[0].sum().item<double>();
  };
  RecordedCall call(function, launch_graphs(gpu));
  for (int i = 1; i <= 4; ++i) {
    CHECK(call({at::full({2}, double(i), at::TensorOptions().device(gpu))})[0].item<double>() == 2.0 * i * i);
  }
  // The allocator and the stream work as before, and others can be recorded.
  RecordedCall other([](const RecordedCall::Inputs& inputs) { return inputs[0] + 1; }, launch_graphs(gpu));
  for (int i = 1; i <= 3; ++i) {
    CHECK(other({at::full({1 << 20}, double(i), at::TensorOptions().device(gpu))})[5].item<double>() ==
          i + 1);
  }
}

TEST_CASE("denoising with recorded steps gives what plain launches give") {
  if (mpi_world()) return;
  const fs::path folder = fs::temp_directory_path() / ("frameshard_launches_" + std::to_string(::getpid()));
  FolderSizes sizes;
  sizes.heads = 5, sizes.head_dim = 32;
  write_random_folder(folder, sizes, fs::path(FRAMESHARD_SOURCE_DIR) / "examples/shapes/tokenizer");
  const CheckpointPtr checkpoint = open_checkpoint(folder);
  for (const auto& [dtype, tolerance] : {std::pair(at::kFloat, 1e-4), {at::kBFloat16, 2e-2}}) {
    const auto denoiser = checkpoint->load_denoiser({dtype, gpu});
    for (double guidance_scale : {1.0, 5.0}) {
      const at::Tensor plain = denoise(*checkpoint, *denoiser, "off", guidance_scale);
      CHECK(relative_error(denoise(*checkpoint, *denoiser, "on", guidance_scale), plain) < tolerance);
    }
  }
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

TEST_CASE("a NaN on the GPU is told one step later, and names its step") {
  if (mpi_world()) return;
  std::vector<int64_t> handed_on;
  CheckedSteps checked(4, 1, finite_look(gpu),
                       [&](const DenoiseState& state) { handed_on.push_back(state.steps); });
  const auto options = at::TensorOptions().device(gpu);
  const auto error = caught([&] {
    for (int64_t i = 1; i <= 4; ++i) {
      checked.add({.latents = at::full({1000}, i == 3 ? std::nan("") : 1.0, options), .steps = i});
    }
    checked.finish();
  });
  CHECK(error.code == ExitCode::not_finite);
  CHECK(error.has("step 3 of 4"));
  CHECK(handed_on == std::vector<int64_t>{1, 2});
}

TEST_CASE("memory that NCCL has registered is used again, and outlives its group") {
  if (mpi_world()) return;
  CommPtr group = group_maker("nccl", gpu)(make_self_communicator("one"));
  const auto options = at::TensorOptions().device(gpu).dtype(at::kBFloat16);
  const int64_t elements = 3 << 20;
  at::Tensor first = group->exchange_buffer(elements, options);
  const void* place = first.data_ptr();
  first.fill_(2);
  CHECK(first.to(at::kFloat).sum().item<double>() == 2.0 * double(elements));
  const at::Tensor second = group->exchange_buffer(elements, options);
  CHECK(second.data_ptr() != place);
  first.reset();
  at::Tensor again = group->exchange_buffer(elements - 5, options);
  CHECK(again.data_ptr() == place);
  group.reset();
  again.fill_(3);
  CHECK(again[17].item<double>() == 3);
}

TEST_CASE("NCCL: exchanges beside work give what they give at once") {
  if (mpi_world()) return;
  if (cuda()->device_count() < 2) {
    WARN("not run: needs 2 GPUs");
    return;
  }
  on_gpus(2, [](Communicator& group, const at::Device& device) {
    const c10::NoGradGuard no_grad;
    check(group.exchanges_beside_work(), "a stream of their own");
    for (int64_t tokens : {3000, 3001}) {
      const Partition pieces = Partition::even(tokens, 2);
      const auto mine = [&](uint64_t seed) {
        return initial_noise({2, tokens, 7, 64}, seed)
            .narrow(1, pieces.begin(group.rank()), pieces.size(group.rank()))
            .to(device, at::kBFloat16);
      };
      const auto attend = [&](ExchangeOverlap overlap) {
        const AttentionStrategy strategy(group, {.ulysses = 2, .ring = 1}, overlap);
        return strategy->self_attention({mine(1), mine(2), mine(3)}, pieces, sdpa_kernel());
      };
      const at::Tensor wanted = attend(ExchangeOverlap::off);
      for (int round = 0; round < 3; ++round) {
        check_close(attend(ExchangeOverlap::on), wanted, 1e-2, fmt::format("round {}", round));
      }
    }
  });
}
