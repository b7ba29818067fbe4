// Single parts of the engine on tensors from files, for tests written in Python.
//   frameshard_probe tokenize TOKENIZER MAX_LENGTH IN.json OUT.json
//   frameshard_probe text FOLDER MAX_LENGTH PROMPT OUT.safetensors    -> "text"
//   frameshard_probe forward FOLDER IN OUT      latents, timestep, text -> "prediction"
//   frameshard_probe forward_lora FOLDER LORA IN OUT          the same with a file of low-rank changes
//   frameshard_probe convert_lora FOLDER LORA FORM OUT        a file of low-rank changes in another form
//   frameshard_probe decode FOLDER IN OUT       latents -> "frames"
//   frameshard_probe decode_tiled FOLDER IN OUT latents -> "frames", of overlapping tiles
//   frameshard_probe encode FOLDER IN OUT       frames -> "moments"
//   frameshard_probe latents FOLDER IN OUT      frames -> "latents", as they are stored for training
//   frameshard_probe time_forward FOLDER IN     forward or decode once for each line of stdin,
//   frameshard_probe time_decode FOLDER IN      with a line {"seconds": 0.123} for each
//   frameshard_probe noise SEED SHAPE... OUT    -> "noise"
//   frameshard_probe gradients FOLDER IN OUT    noisy, timestep, text, target -> "loss", "grad.<weight>"
//   frameshard_probe train FOLDER IN OUT        the same with .0, .1 … for each step -> weights after them
//   frameshard_probe gradients_lora FOLDER LORA IN OUT, train_lora FOLDER LORA IN OUT
//                                               the same of a LoRA's "<layer>.lora_A" and "….lora_B" alone
//   frameshard_probe gradients_text FOLDER CAPTION IN OUT
//                                               factors -> the sum of the caption's embedding times them, and
//                                               its gradients by the text encoder's weights
//   frameshard_probe vae_gradients FOLDER IN OUT, vae_gradients_decoder FOLDER IN OUT
//                                               frames, noise -> "total" and its terms, "grad.<weight>" of
//                                               the whole autoencoder, or with its encoder as it is
//   frameshard_probe events DIRECTORY PNG       an event file
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/host.h"
#include "core/io/safetensors.h"
#include "core/rng.h"
#include "models/checkpoint.h"
#include "models/lora.h"
#include "models/tiled_decode.h"
#include "parallel/comm/self.h"

int probe_tokenize(int argc, char** argv);
int probe_train(const std::string& what, int argc, char** argv);
int probe_vae(const std::string& what, int argc, char** argv);
int probe_events(int argc, char** argv);

namespace {

using namespace frameshard;

const at::Device cpu(at::kCPU);

void save(const char* file, const std::string& name, const at::Tensor& tensor) {
  write_safetensors(file, {{name, tensor.to(at::kFloat).contiguous()}});
}

// The work of a part, its weights and inputs read.
using Work = std::function<at::Tensor()>;

Work forward(const Checkpoint& checkpoint, const WeightFiles& in, const char* lora = nullptr) {
  const std::shared_ptr<Denoiser> denoiser = checkpoint.load_denoiser({at::kFloat, cpu});
  if (lora) use_lora(read_lora(lora, denoiser->weights()), denoiser->weights(), {});
  return [=, latents = in.read("latents"), timestep = in.read("timestep"), text = in.read("text")] {
    const CommPtr self = make_self_communicator();
    const AttentionPtr attention = make_local_attention();
    const ParallelSequence sequence(*self, *attention,
                                    Partition::even(denoiser->token_count(latents.sizes().slice(1)), 1));
    return denoiser->predict(latents, timestep, denoiser->prepare(text), sequence);
  };
}

Work decode(const Checkpoint& checkpoint, const WeightFiles& in) {
  const std::shared_ptr<Vae> vae = checkpoint.load_vae({at::kFloat, cpu});
  return [=, latents = in.read("latents")] {
    std::vector<at::Tensor> parts;
    vae->decode(latents, [&](const at::Tensor& frames) { parts.push_back(frames); });
    return at::cat(parts, 2);
  };
}

at::Tensor decode_tiled(const Checkpoint& checkpoint, const at::Tensor& latents) {
  const auto vae = checkpoint.load_vae({at::kFloat, cpu});
  const int64_t scale = 8, frames = 4 * (latents.size(2) - 1) + 1;
  at::Tensor picture = at::full({1, 3, frames, scale * latents.size(3), scale * latents.size(4)}, NAN);
  decode_tiled(*vae, latents, {}, {*make_self_communicator()}, [&](const Area& area, const at::Tensor& part) {
    picture.narrow(3, area.top, area.height).narrow(4, area.left, area.width).copy_(part);
  });
  return picture;
}

// So that whoever drives it may take turns with another program.
void time_each_line(const Work& work) {
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("{\"seconds\": %.9f}\n", seconds.count());
    std::fflush(stdout);
  }
}

int probe(const std::string& what, int argc, char** argv) {
  if (what.starts_with("gradients") || what.starts_with("train")) return probe_train(what, argc, argv);
  if (what.starts_with("vae_gradients")) return probe_vae(what, argc, argv);
  const c10::NoGradGuard no_grad;
  if (what == "events") return probe_events(argc, argv);
  if (what == "tokenize") return probe_tokenize(argc, argv);
  if (what == "noise") {
    std::vector<int64_t> shape;
    for (int i = 1; i + 1 < argc; ++i) shape.push_back(std::atoll(argv[i]));
    save(argv[argc - 1], "noise", initial_noise(shape, std::strtoull(argv[0], nullptr, 10)));
    return 0;
  }
  const CheckpointPtr checkpoint = open_checkpoint(argv[0]);
  if (what == "text") {
    const at::Tensor text =
        checkpoint->load_text_encoder({at::kFloat, cpu})->encode(argv[2], std::atoll(argv[1]));
    save(argv[3], "text", text);
  } else if (what == "forward") {
    save(argv[2], "prediction", forward(*checkpoint, WeightFiles::open(argv[1]))());
  } else if (what == "forward_lora") {
    save(argv[3], "prediction", forward(*checkpoint, WeightFiles::open(argv[2]), argv[1])());
  } else if (what == "convert_lora") {
    const auto denoiser = checkpoint->denoiser_without_weights();
    write_lora(argv[3], read_lora(argv[1], denoiser->weights()), parse_lora_form(argv[2]));
  } else if (what == "decode") {
    save(argv[2], "frames", decode(*checkpoint, WeightFiles::open(argv[1]))());
  } else if (what == "decode_tiled") {
    save(argv[2], "frames", decode_tiled(*checkpoint, WeightFiles::open(argv[1]).read("latents")));
  } else if (what == "time_forward") {
    time_each_line(forward(*checkpoint, WeightFiles::open(argv[1])));
  } else if (what == "time_decode") {
    time_each_line(decode(*checkpoint, WeightFiles::open(argv[1])));
  } else if (what == "encode") {
    save(argv[2], "moments",
         checkpoint->load_vae({at::kFloat, cpu})->encode(WeightFiles::open(argv[1]).read("frames")));
  } else if (what == "latents") {
    const auto vae = checkpoint->load_vae({at::kFloat, cpu});
    const at::Tensor moments = vae->encode(WeightFiles::open(argv[1]).read("frames"));
    save(argv[2], "latents", vae->normalised(moments.chunk(2, 1)[0]));
  } else {
    fail(ExitCode::usage, "unknown probe {}", what);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  frameshard::keep_freed_memory();  // as the program does
  try {
    return argc > 2 ? probe(argv[1], argc - 2, argv + 2) : 64;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return int(error.code());
  }
}
