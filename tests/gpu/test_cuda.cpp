// Needs a GPU: without one the program says so and ends with 77 before any test (tests/support/main.cpp).
// Ranks as threads, or as processes under mpirun, share the first GPU; processes exchange through pinned host
// buffers.
#include <chrono>
#include <filesystem>

#include <c10/core/GradMode.h>
#include <unistd.h>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/rng.h"
#include "models/checkpoint.h"
#include "models/common/attention_kernel.h"
#include "models/wan/dit.h"
#include "parallel/comm/backends.h"
#include "parallel/comm/self.h"
#include "parallel/plan.h"
#include "parallel/strategies.h"
#include "tests/support/random_folder.h"
#include "tests/support/rank_test.h"

using namespace frameshard;
using namespace frameshard::testing;

namespace {

namespace fs = std::filesystem;

const at::Device cpu(at::kCPU), gpu(at::kCUDA, 0);

// A folder of random weights, in a place of its own in every process.
class RandomFolder {
 public:
  RandomFolder() {
    FolderSizes sizes;
    sizes.heads = 5, sizes.head_dim = 32;
    write_random_folder(folder_, sizes, fs::path(FRAMESHARD_SOURCE_DIR) / "examples/shapes/tokenizer");
    checkpoint_ = open_checkpoint(folder_);
  }
  ~RandomFolder() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  RandomFolder(const RandomFolder&) = delete;
  RandomFolder& operator=(const RandomFolder&) = delete;

  const Checkpoint* operator->() const { return checkpoint_.get(); }

 private:
  fs::path folder_ = fs::temp_directory_path() / ("frameshard_cuda_" + std::to_string(::getpid()));
  CheckpointPtr checkpoint_;
};

at::Tensor predict(const Denoiser& denoiser, const at::Device& device, Communicator& comm,
                   AttentionShape shape) {
  const c10::NoGradGuard no_grad;
  const AttentionStrategy attention(comm, shape);
  const ParallelSequence sequence(comm, *attention, Partition::even(45, comm.size()));
  const at::Tensor latents = initial_noise({1, 16, 3, 10, 6}, 1).to(device);
  const TextContext text = denoiser.prepare(initial_noise({1, 20, 32}, 2).to(device));
  return denoiser.predict(latents, at::full({1}, 423.0, latents.options()), text, sequence).cpu();
}
at::Tensor predict_alone(const Denoiser& denoiser, const at::Device& device) {
  return predict(denoiser, device, *make_self_communicator(), {});
}

void check_finite_and_close(const at::Tensor& got, const at::Tensor& wanted, double tolerance) {
  CHECK(at::isfinite(got).all().item<bool>());
  CHECK(got.sizes() == wanted.sizes());
  CHECK(relative_error(got.cpu(), wanted) < tolerance);
}

at::Tensor decode(const Vae& vae, const at::Device& device) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  vae.decode(initial_noise({1, 16, 3, 4, 6}, 3).to(device),
             [&](const at::Tensor& frames) { parts.push_back(frames.cpu()); });
  return at::cat(parts, 2);
}

// Output and gradients of q, k, v of one rank's tokens.
std::vector<at::Tensor> attend(Communicator& comm, AttentionShape shape, const at::Device& device,
                               at::ScalarType dtype) {
  const Partition tokens = Partition::even(37, comm.size());
  const auto mine = [&](uint64_t seed) {
    const at::Tensor whole = initial_noise({1, 37, 5, 32}, seed);
    return whole.narrow(1, tokens.begin(comm.rank()), tokens.size(comm.rank()))
        .to(device, dtype)
        .contiguous();
  };
  const at::Tensor q = mine(4).requires_grad_(true), k = mine(5).requires_grad_(true),
                   v = mine(6).requires_grad_(true);
  const AttentionStrategy strategy(comm, shape);
  const at::Tensor output = strategy->self_attention({q, k, v}, tokens, sdpa_kernel());
  (output * mine(7)).sum().backward();
  return {output.detach().cpu(), q.grad().cpu(), k.grad().cpu(), v.grad().cpu()};
}

// The published sizes of Wan 2.1 1.3B, its weights random and made in place.
std::unique_ptr<wan::Dit> random_1_3b() {
  const wan::DitConfig config{.heads = 12,
                              .head_dim = 128,
                              .layers = 30,
                              .ffn_dim = 8960,
                              .in_channels = 16,
                              .out_channels = 16,
                              .text_dim = 4096,
                              .freq_dim = 256,
                              .patch = {1, 2, 2},
                              .cross_attention_norm = true,
                              .eps = 1e-6,
                              .max_positions = 1024};
  auto dit = std::make_unique<wan::Dit>(config, at::kBFloat16);
  for (const WeightSlot& slot : dit->weights().slots()) {
    const auto options =
        at::TensorOptions().dtype(slot.keep_float32 ? at::kFloat : at::kBFloat16).device(gpu);
    const int64_t inputs = slot.shape.size() > 1 ? c10::multiply_integers(slot.shape) / slot.shape[0] : 16;
    const bool norm = slot.name.find("norm") != std::string::npos && slot.name.ends_with("weight");
    *slot.target = norm ? at::ones(slot.shape, options)
                        : at::randn(slot.shape, options).mul_(0.7 / std::sqrt(double(inputs)));
  }
  return dit;
}

}  // namespace

TEST_CASE("a forward on CUDA equals the CPU's") {
  const RandomFolder folder;
  const at::Tensor wanted = predict_alone(*folder->load_denoiser({at::kFloat, cpu}), cpu);
  check_finite_and_close(predict_alone(*folder->load_denoiser({at::kFloat, gpu}), gpu), wanted, 1e-4);
  check_finite_and_close(predict_alone(*folder->load_denoiser({at::kBFloat16, gpu}), gpu), wanted, 2e-2);
}

TEST_CASE("a VAE's frames on CUDA equal the CPU's") {
  const RandomFolder folder;
  const at::Tensor wanted = decode(*folder->load_vae({at::kFloat, cpu}), cpu);
  CHECK(wanted.sizes() == at::IntArrayRef({1, 3, 9, 32, 48}));
  check_finite_and_close(decode(*folder->load_vae({at::kFloat, gpu}), gpu), wanted, 1e-2);  // cuDNN's TF32
  check_finite_and_close(decode(*folder->load_vae({at::kBFloat16, gpu}), gpu), wanted, 5e-2);
}

TEST_CASE("a text's embedding on CUDA equals the CPU's") {
  const RandomFolder folder;
  const c10::NoGradGuard no_grad;
  const std::string prompt = "A red ball rolls down a hill.";
  const at::Tensor wanted = folder->load_text_encoder({at::kFloat, cpu})->encode(prompt, 64);
  check_finite_and_close(folder->load_text_encoder({at::kFloat, gpu})->encode(prompt, 64), wanted, 1e-4);
  check_finite_and_close(folder->load_text_encoder({at::kBFloat16, gpu})->encode(prompt, 64), wanted, 3e-2);
}

TEST_CASE("collectives move CUDA tensors between ranks that share a GPU") {
  on_ranks({2, 4}, [](Communicator& comm) {
    cuda()->set_device(0);
    const int64_t n = comm.size(), me = comm.rank();
    for (at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kLong}) {
      const auto options = at::TensorOptions().dtype(dtype).device(gpu);
      const Counts counts(size_t(n), 3);
      at::Tensor sum = at::full({5}, me, options), all = at::arange(n * 3, options);
      comm.all_reduce(sum);
      check(sum.is_cuda() && sum.eq(n * (n - 1) / 2).all().item<bool>(), "all_reduce");
      check(at::equal(comm.all_gather(all.narrow(0, me * 3, 3).contiguous(), counts), all), "all_gather");
      check(at::equal(comm.reduce_scatter(all, counts), all.narrow(0, me * 3, 3) * n), "reduce_scatter");
      const at::Tensor turned = comm.all_to_all(all * n + me, counts, counts).view({n, 3}).cpu();
      for (int64_t i = 0; i < n; ++i)
        check(turned[i][1].item<int64_t>() == (me * 3 + 1) * n + i, "all_to_all");
      at::Tensor root = all + me;
      comm.broadcast(root, 1);
      check(at::equal(root, all + 1), "broadcast");
    }
  });
}

TEST_CASE("Ulysses, ring and both over ranks that share a GPU give one CPU rank's prediction") {
  const RandomFolder folder;
  const at::Tensor wanted = predict_alone(*folder->load_denoiser({at::kFloat, cpu}), cpu);
  for (const auto& [dtype, tolerance] : {std::pair(at::kFloat, 1e-4), {at::kBFloat16, 2e-2}}) {
    const auto denoiser = folder->load_denoiser({dtype, gpu});
    on_ranks({2, 4}, [&, limit = tolerance](Communicator& comm) {
      cuda()->set_device(0);
      for (int ulysses : {1, 2, 4}) {
        if (comm.size() % ulysses != 0) continue;
        const at::Tensor got = predict(*denoiser, gpu, comm, {ulysses, comm.size() / ulysses});
        check_close(got, wanted, limit, fmt::format("ulysses {} x ring {}", ulysses, comm.size() / ulysses));
      }
    });
  }
}

TEST_CASE("gradients of attention on CUDA equal one CPU rank's") {
  const auto wanted = attend(*make_self_communicator(), {}, cpu, at::kFloat);
  for (const auto& [dtype, tolerance] : {std::pair(at::kFloat, 1e-4), {at::kBFloat16, 2e-2}}) {
    on_ranks({1, 2, 4}, [&, type = dtype, limit = tolerance](Communicator& comm) {
      cuda()->set_device(0);
      const Partition tokens = Partition::even(37, comm.size());
      for (AttentionShape shape : {AttentionShape{comm.size(), 1}, AttentionShape{1, comm.size()}}) {
        const auto got = attend(comm, shape, gpu, type);
        for (size_t i = 0; i < got.size(); ++i) {
          const at::Tensor mine = wanted[i].narrow(1, tokens.begin(comm.rank()), tokens.size(comm.rank()));
          check_close(got[i], mine, limit,
                      fmt::format("tensor {} of ulysses {} x ring {}", i, shape.ulysses, shape.ring));
        }
      }
    });
  }
}

// As of a prompt's padding. All scores low, and T = 64 modulo 128: cuDNN's backward pass must be kept from
// it.
TEST_CASE("attention with weighted keys on CUDA equals the CPU's, with its gradients") {
  for (const int64_t keys : {13, 64, 65, 192}) {
    const at::Tensor weight = at::floor(initial_noise({1, 1, 1, keys}, 10) * 2) - 120;  // exact in bfloat16
    const auto results = [&](const at::Device& device, at::ScalarType dtype) {
      const auto input = [&](int64_t rows, uint64_t seed) {
        return initial_noise({1, rows, 5, 32}, seed).to(device, dtype).requires_grad_(true);
      };
      const at::Tensor q = input(37, 11), k = input(keys, 12), v = input(keys, 13);
      const at::Tensor output = attend_weighted(q, k, v, weight.to(device, dtype));
      (output * initial_noise({1, 37, 5, 32}, 14).to(device, dtype)).sum().backward();
      return std::vector<at::Tensor>{output.detach(), q.grad(), k.grad(), v.grad()};
    };
    const auto wanted = results(cpu, at::kFloat);
    for (const auto& [dtype, tolerance] : {std::pair(at::kFloat, 1e-4), {at::kBFloat16, 2e-2}}) {
      const auto got = results(gpu, dtype);
      for (size_t i = 0; i < got.size(); ++i) {
        INFO(fmt::format("{} keys, tensor {}, {}", keys, i, c10::toString(dtype)));
        check_finite_and_close(got[i].to(cpu, at::kFloat), wanted[i], tolerance);
      }
    }
  }
}

TEST_CASE("NCCL starts and ends a group of one") {
  if (mpi_world()) return;
  const CommPtr group = group_maker("nccl", gpu)(make_self_communicator("one"));
  CHECK(group->size() == 1);
  CHECK(group->name() == "one");
  at::Tensor tensor = at::ones({4}, at::TensorOptions().device(gpu));
  group->all_reduce(tensor);
  CHECK(tensor.sum().item<double>() == 4);
  group->barrier();
  CHECK(group->split(0, 0, "part")->name() == "part");
}

TEST_CASE("a forward of the 1.3B model's sizes, 832x480 and 81 frames, is finite") {
  if (mpi_world()) return;
  const c10::NoGradGuard no_grad;
  const auto dit = random_1_3b();
  const CommPtr self = make_self_communicator();
  const AttentionStrategy attention(*self, {});
  const ParallelSequence sequence(*self, *attention, Partition::even(32760, 1));
  const at::Tensor latents = initial_noise({1, 16, 21, 60, 104}, 8).to(gpu),
                   timestep = at::full({1}, 500.0, latents.options());
  const TextContext text = dit->prepare(initial_noise({1, 512, 4096}, 9).to(gpu));
  reset_peak_memory(gpu);
  at::Tensor prediction = dit->predict(latents, timestep, text, sequence);  // warms up
  synchronize(gpu);
  const auto start = std::chrono::steady_clock::now();
  prediction = dit->predict(latents, timestep, text, sequence);
  synchronize(gpu);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(prediction.sizes() == latents.sizes());
  CHECK(at::isfinite(prediction).all().item<bool>());
  CHECK(prediction.to(at::kFloat).std().item<double>() > 0.01);
  const ModelFacts facts{
      .name = "1.3B", .heads = 12, .head_dim = 128, .layers = 30, .ffn_dim = 8960, .latent_channels = 16};
  WARN(fmt::format("{:.3f} s a forward, {:.0f} TFLOP/s, peak {:.1f} GiB", seconds,
                   denoiser_operations(facts, 32760, 32760, 512) / seconds / 1e12,
                   double(peak_memory(gpu)) / double(1 << 30)));
}
