// The engine's side of test_vae_training.py: losses and gradients of one clip.
#include <string>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "models/checkpoint.h"
#include "models/training/vae_step.h"

/// `argv` after the subcommand: FOLDER IN OUT. Returns the program's exit code.
int probe_vae(const std::string& what, int argc, char** argv) {
  using namespace frameshard;
  if (argc != 3) return int(ExitCode::usage);
  const at::Device cpu(at::kCPU);
  const auto vae = open_checkpoint(argv[0])->load_vae({at::kFloat, cpu});
  const auto& slots = vae->weights().slots();
  for (const WeightSlot& slot : slots) slot.target->requires_grad_(true);
  const WeightFiles in = WeightFiles::open(argv[1]);
  // What test_vae_training.py has as WEIGHTS.
  const AutoencoderConfig config{.decoder_only = what == "vae_gradients_decoder",
                                 .absolute_weight = 1.0,
                                 .square_weight = 0.5,
                                 .edge_weight = 2.0,
                                 .kl_weight = 0.1};
  const VaeLosses losses = VaeStep(*vae, config, cpu)
                               .backward(
                                   in.read("frames"), [&](at::IntArrayRef) { return in.read("noise"); }, 1.0);
  NamedTensors out;
  for (const auto& [name, value] :
       {std::pair("absolute", losses.absolute), std::pair("square", losses.square),
        std::pair("edges", losses.edges), std::pair("kl", losses.kl), std::pair("total", losses.total)}) {
    out.emplace_back(name, at::tensor(value));
  }
  for (const WeightSlot& slot : slots) {
    const at::Tensor& gradient = slot.target->grad();
    if (gradient.defined()) out.emplace_back("grad." + slot.name, gradient.contiguous());
  }
  write_safetensors(argv[2], out);
  return 0;
}
