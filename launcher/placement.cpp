#include "launcher/placement.h"

#include <set>

#include "core/cuda_module.h"
#include "core/device.h"
#include "core/error.h"

namespace frameshard {
namespace {

// "default", "cpu", "cuda" or "cuda:N".
at::Device placed(const std::string& word, const at::Device& mine, int local_rank) {
  if (word == "default") return mine;
  if (word == "cuda" && mine.is_cuda()) return mine;
  if (word == "cuda" && !cuda()) return at::Device(at::kCUDA, 0);  // to be planned for, elsewhere
  if (!word.starts_with("cuda:")) return device_for_rank(word, local_rank);
  return at::Device(at::kCUDA, c10::DeviceIndex(std::stoi(word.substr(5))));
}

bool is_half(const std::string& dtype) {
  return dtype == "bfloat16" || dtype == "float16";
}

// Half-precision convolutions are hundreds of times slower on a CPU: who places a VAE there wants none.
at::ScalarType vae_dtype(const RunConfig& config, const at::Device& device) {
  const bool slow = device.is_cpu() && config.place.vae == "cpu" && is_half(config.model.vae_dtype);
  return slow ? at::kFloat : resolve_dtype(config.model.vae_dtype, device);
}

// Whether a rank of the job computes on what `word` names.
bool has_rank(const RunConfig& config, const std::string& word, const PlanMachine& machine) {
  if (word == "default" || word == machine.device) return true;
  if (config.devices.empty()) {
    return machine.device == "cuda" && word.starts_with("cuda:") &&
           std::stoi(word.substr(5)) < machine.node_ranks();
  }
  return std::any_of(config.devices.begin(), config.devices.end(), [&](const DeviceConfig& each) {
    return each.device == word || (each.device == "auto" && machine.device == word);
  });
}

}  // namespace

std::vector<std::string> settle_places(RunConfig& config, const DevicesHere& here) {
  std::vector<std::string> warnings;
  auto settle = [&](const char* part, std::string& word) {
    if (word == "default" || here.has(word)) return;
    if (config.infer.missing_devices != "skip") {
      fail(ExitCode::config,
           "place.{} is {}, but {}; name another device, or set infer.missing_devices=skip for the default",
           part, word, here.text);
    }
    warnings.push_back(
        fmt::format("place.{} is {}, but {}: it goes where the denoiser is", part, word, here.text));
    word = "default";
  };
  settle("text_encoder", config.place.text_encoder);
  settle("vae", config.place.vae);
  return warnings;
}

namespace {

// Such a rank's type must not round what the others exchange.
bool computes_nothing(const DeviceConfig& device) {
  return device.weight.value && *device.weight.value == 0;
}

// Where an entry of `devices` does not say otherwise.
at::ScalarType model_dtype(const RunConfig& config, const at::Device& device) {
  const bool mixed = config.model.dtype == "auto" && mixes_devices(config);
  return mixed ? at::kFloat : resolve_dtype(config.model.dtype, device);
}

}  // namespace

at::ScalarType denoiser_dtype(const RunConfig& config, const at::Device& device, int rank) {
  if (size_t(rank) >= config.devices.size()) return model_dtype(config, device);
  const DeviceConfig& mine = config.devices[size_t(rank)];
  return mine.dtype == "auto" || computes_nothing(mine) ? model_dtype(config, device)
                                                        : resolve_dtype(mine.dtype, device);
}

RankTypes types_of_ranks(const RunConfig& config, const at::Device& device) {
  std::set<at::ScalarType> types;
  for (size_t rank = 0; rank < config.devices.size(); ++rank) {
    if (computes_nothing(config.devices[rank])) continue;
    const bool on_gpu = device_type_of(config, rank, device.is_cuda() ? "cuda" : "cpu") == "cuda";
    types.insert(denoiser_dtype(config, on_gpu ? at::kCUDA : at::kCPU, int(rank)));
  }
  if (types.empty()) types.insert(denoiser_dtype(config, device, 0));
  if (types.size() == 1) return {*types.begin(), *types.begin(), 1};
  std::set<at::ScalarType> narrow = types;
  narrow.erase(at::kFloat);
  return {.widest = types.contains(at::kFloat) ? at::kFloat : *types.begin(),
          .wire = narrow.size() == 1 ? *narrow.begin() : at::kFloat,
          .count = int(types.size())};
}

RankParts parts_of(const RunConfig& config, const at::Device& device, const RankPlace& place) {
  const at::Device text = placed(config.place.text_encoder, device, place.local_rank);
  const at::Device vae = placed(config.place.vae, device, place.local_rank);
  return {.text_encoder = {text, text == device ? model_dtype(config, device)
                                                : resolve_dtype(config.model.dtype, text)},
          .denoiser = {device, denoiser_dtype(config, device, place.rank)},
          .vae = {vae, vae_dtype(config, vae)}};
}

std::vector<std::string> placement_notes(const RunConfig& config) {
  std::vector<std::string> notes;
  if (const RankTypes types = types_of_ranks(config, at::kCPU); types.differ()) {
    notes.push_back(types.wire == at::kFloat
                        ? "ranks compute in bfloat16 and in float16: they exchange in float32"
                        : fmt::format("ranks compute in different types: what they exchange is rounded to {}",
                                      dtype_name(types.wire)));
  } else if (mixes_devices(config)) {
    notes.push_back(
        fmt::format("GPUs and CPUs share the job: all of them compute in {}, and exchange through the host",
                    config.model.dtype == "auto" ? "float32 (model.dtype is auto)" : config.model.dtype));
  }
  if (config.place.vae == "cpu" && is_half(config.model.vae_dtype)) {
    notes.push_back(
        fmt::format("place.vae is cpu, where convolutions in {} are hundreds of times slower: the VAE "
                    "is loaded in float32",
                    config.model.vae_dtype));
  }
  return notes;
}

bool parts_take_turns(const RunConfig& config, const at::Device& device) {
  return config.infer.low_memory >= (device.is_cuda() ? 1 : 2);
}

void describe_places(PlanMachine& machine, const RunConfig& config) {
  machine.low_memory = config.infer.low_memory;
  const RankTypes types = types_of_ranks(config, machine.device == "cuda" ? at::kCUDA : at::kCPU);
  machine.types = types.count;
  if (types.differ()) machine.wire = dtype_name(types.wire);
  machine.text_elsewhere = !has_rank(config, config.place.text_encoder, machine);
  machine.vae_elsewhere = !has_rank(config, config.place.vae, machine);
}

}  // namespace frameshard
