// The engine's side of test_training.py: gradients of one batch, and weights after some steps.
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "models/checkpoint.h"
#include "models/lora.h"
#include "models/training/optimizer.h"
#include "parallel/comm/self.h"
#include "parallel/trained_parameters.h"

namespace {

using namespace frameshard;

// What is trained, by the name that test_training.py knows: rows of a tensor of the model.
struct Trained {
  std::string name;
  at::Tensor* tensor;
  int64_t first_row, rows;

  at::Tensor cut(const at::Tensor& whole) const { return whole.narrow(0, first_row, rows).contiguous(); }
};

std::vector<Trained> all_weights(const WeightList& list) {
  std::vector<Trained> trained;
  for (const WeightSlot& slot : list.slots()) {
    trained.push_back({slot.name, slot.whole ? slot.whole : slot.target, slot.first_row, slot.shape[0]});
  }
  return trained;
}

std::vector<Trained> adapters(const WeightList& list) {
  std::vector<Trained> trained;
  for (const LayerSlot& slot : list.layers()) {
    for (LowRank& change : slot.computed->adapters) {
      if (change.first_row != slot.first_row) continue;  // of another layer of the same stack
      trained.push_back({slot.name + ".lora_A", &change.a, 0, change.a.size(0)});
      trained.push_back({slot.name + ".lora_B", &change.b, 0, change.b.size(0)});
    }
  }
  return trained;
}

// Each tensor once: layers of a stack are rows of one.
std::vector<TrainedParameter> tensors_of(const std::vector<Trained>& trained) {
  std::set<at::Tensor*> seen;
  std::vector<TrainedParameter> tensors;
  for (const Trained& each : trained) {
    if (seen.insert(each.tensor).second) tensors.push_back({each.name, each.tensor});
  }
  return tensors;
}

// Forward and backward of one batch: "noisy", "timestep", "text" and "target", each with this suffix. The
// mean of the squared differences.
at::Tensor backward(const Denoiser& denoiser, const WeightFiles& in, const std::string& suffix = "") {
  const at::Tensor noisy = in.read("noisy" + suffix);
  const CommPtr self = make_self_communicator();
  const AttentionPtr attention = make_local_attention();
  const ParallelSequence sequence(*self, *attention,
                                  Partition::even(denoiser.token_count(noisy.sizes().slice(1)), 1));
  const at::Tensor prediction = denoiser.predict_for_training(
      noisy, in.read("timestep" + suffix), in.read("text" + suffix), sequence, BlockRunner());
  const at::Tensor loss = (prediction - in.read("target" + suffix)).square().mean();
  loss.backward();
  return loss.detach();
}

NamedTensors gradients(const Denoiser& denoiser, const std::vector<Trained>& trained, const WeightFiles& in) {
  for (const TrainedParameter& parameter : tensors_of(trained)) parameter.tensor->requires_grad_(true);
  NamedTensors out{{"loss", backward(denoiser, in)}};
  for (const Trained& each : trained) {
    require(each.tensor->grad().defined(), "no gradient of {}", each.name);
    out.emplace_back("grad." + each.name, each.cut(each.tensor->grad()));
  }
  return out;
}

// As many steps of AdamW, with the settings that a config begins with, as there are batches "noisy.<step>".
NamedTensors train(const Denoiser& denoiser, const std::vector<Trained>& trained, const WeightFiles& in) {
  const CommPtr group = make_self_communicator(), gather = make_self_communicator();
  // Some buckets of several weights, and some of one that is larger than a bucket.
  TrainedParameters parameters(tensors_of(trained), *group, *gather, {.bucket_bytes = 20'000});
  const OptimizerConfig config;
  Optimizer optimizer(config, WeightPrecision::plain, 0.0, 0);
  for (int64_t step = 0; in.find(fmt::format("noisy.{}", step)); ++step) {
    parameters.begin_step();
    parameters.sum_next_backward();
    backward(denoiser, in, fmt::format(".{}", step));
    parameters.finish_gradients();
    const double norm = Optimizer::gradient_norm(parameters.shards(), false, *group);
    optimizer.step(parameters.shards(), config.learning_rate, norm);
    parameters.publish();
  }
  NamedTensors out;
  for (const Trained& each : trained) out.emplace_back(each.name, each.cut(each.tensor->detach()));
  return out;
}

// Gradients of the sum of a caption's embedding times "factors", by all weights of the text encoder.
int text_gradients(const std::string& folder, const std::string& caption, const std::string& given,
                   const std::string& answer) {
  const auto encoder = open_checkpoint(folder)->load_text_encoder({at::kFloat, at::kCPU});
  const auto& slots = encoder->weights().slots();
  for (const WeightSlot& slot : slots) slot.target->requires_grad_(true);
  const at::Tensor factors = WeightFiles::open(given).read("factors");
  const at::Tensor value = (encoder->encode(caption, factors.size(1)) * factors).sum();
  value.backward();
  NamedTensors out{{"loss", value.detach()}};
  for (const WeightSlot& slot : slots)
    out.emplace_back("grad." + slot.name, slot.target->grad().contiguous());
  write_safetensors(answer, out);
  return 0;
}

}  // namespace

/// `argv` after the subcommand: FOLDER IN OUT, with a LoRA FOLDER LORA IN OUT, of a text FOLDER CAPTION IN
/// OUT. Returns the program's exit code.
int probe_train(const std::string& what, int argc, char** argv) {
  if (what == "gradients_text" && argc == 4) return text_gradients(argv[0], argv[1], argv[2], argv[3]);
  const bool lora = what.ends_with("_lora");
  if (argc != (lora ? 4 : 3)) return int(ExitCode::usage);
  const auto denoiser = open_checkpoint(argv[0])->load_denoiser({at::kFloat, at::kCPU});
  const WeightList& list = denoiser->weights();
  if (lora) use_lora(read_lora(argv[1], list), list, {});
  const std::vector<Trained> trained = lora ? adapters(list) : all_weights(list);
  const WeightFiles in = WeightFiles::open(argv[argc - 2]);
  write_safetensors(argv[argc - 1], what.starts_with("gradients") ? gradients(*denoiser, trained, in)
                                                                  : train(*denoiser, trained, in));
  return 0;
}
