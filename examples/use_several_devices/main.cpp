// One model over several devices of a program of your own: a text is denoised over two devices, two thirds of
// the tokens on the first one, and compared with one device. Without arguments both are the CPU.
//   use_several_devices MODEL_FOLDER [DEVICE ...]      use_several_devices examples/shapes cuda:0 cuda:1
#include <cstdio>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/rng.h"
#include "models/parallel_devices.h"
#include "parallel/comm/self.h"
#include "parallel/strategies.h"

using namespace frameshard;

namespace {

constexpr int64_t steps = 4, frames = 9, height = 64, width = 96;

// The model divides the sequence itself: for its caller it is whole.
at::Tensor denoise(const Denoiser& model, const Checkpoint& checkpoint, const at::Tensor& text) {
  const c10::NoGradGuard no_grad;
  const CommPtr self = make_self_communicator();
  const AttentionStrategy attention(*self, {});
  const auto shape = model.latent_shape(frames, height, width);  // [C, F, h, w]
  const ParallelSequence sequence(*self, *attention, attention.divide(model.token_count(shape)));
  const TextContext context = model.prepare(text);
  const auto schedule = checkpoint.schedule({}, steps);
  at::Tensor latents = initial_noise({1, shape[0], shape[1], shape[2], shape[3]}, /*seed=*/7);
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor timestep = at::full({1}, schedule->timestep(i));
    latents = schedule->step(model.predict(latents, timestep, context, sequence), i, latents);
  }
  return latents;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) fail(ExitCode::usage, "usage: use_several_devices MODEL_FOLDER [DEVICE ...]");
  std::vector<DeviceShare> shares;
  for (int i = 2; i < argc; ++i) shares.push_back({at::Device(argv[i]), i == 2 ? 2.0 : 1.0});
  if (shares.empty()) shares = {{at::kCPU, 2}, {at::kCPU, 1}};

  const std::shared_ptr<const Checkpoint> checkpoint = open_checkpoint(argv[1]);
  const at::Tensor text = checkpoint->load_text_encoder({})->encode("a red circle", /*max_length=*/64);

  ParallelDevices devices;
  devices.enable(shares);
  const std::shared_ptr<Denoiser> model = devices.parallelise(checkpoint, at::kFloat);
  const at::Tensor together = denoise(*model, *checkpoint, text);
  std::string names;
  for (const std::string& id : devices.ids()) names += (names.empty() ? "" : ", ") + id;

  devices.disable();  // the same model follows
  const at::Tensor alone = denoise(*model, *checkpoint, text);
  const double error = ((together - alone).norm() / alone.norm()).item<double>();
  std::printf("%zu devices (%s) against 1: relative error %.1e\n", shares.size(), names.c_str(), error);
  return error <= 1e-5 ? 0 : 1;
} catch (const Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return int(error.code());
}
