#include "launcher/train/trained_model.h"

#include <algorithm>
#include <set>

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/run_directory.h"
#include "core/io/safetensors.h"
#include "core/io/text_file.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

// "blocks.7.attn1.to_q.weight" -> 8
int unit_of(const std::string& name) {
  const std::string start = "blocks.";
  return name.starts_with(start) ? 1 + std::stoi(name.substr(start.size())) : 0;
}

// One safetensors file may be as large as the disk allows; diffusers' own are cut at 10 GB.
constexpr int64_t file_bytes = int64_t(10) << 30;

void write_weights(const fs::path& folder, const std::string& stem, const NamedTensors& tensors) {
  std::vector<NamedTensors> files(1);
  int64_t bytes = 0, total = 0;
  for (const auto& tensor : tensors) {
    const auto size = int64_t(tensor.second.nbytes());
    if (bytes > 0 && bytes + size > file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().push_back(tensor);
    bytes += size;
    total += size;
  }
  if (files.size() == 1)
    return write_safetensors(folder / (stem + ".safetensors"), tensors, {{"format", "pt"}});
  Json index{{"metadata", {{"total_size", total}}}, {"weight_map", Json::object()}};
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name = fmt::format("{}-{:05}-of-{:05}.safetensors", stem, i + 1, files.size());
    write_safetensors(folder / name, files[i], {{"format", "pt"}});
    for (const auto& [tensor, unused] : files[i]) index["weight_map"][tensor] = name;
  }
  write_file_atomically(folder / (stem + ".safetensors.index.json"), index.dump(2) + "\n");
}

// The other parts are those of the checkpoint: the same files under another name where the disk allows it.
void link_or_copy(const fs::path& from, const fs::path& to) {
  if (fs::is_directory(from)) {
    make_output_directory(to);
    for (const auto& entry : fs::directory_iterator(from))
      link_or_copy(entry.path(), to / entry.path().filename());
    return;
  }
  std::error_code error;
  const fs::path real = fs::canonical(from, error);  // a link to a file of a cache
  if (!error) fs::create_hard_link(real, to, error);
  if (error) fs::copy_file(from, to, error);
  if (error)
    fail(ExitCode::io, "{}: cannot be copied to {}: {}", from.string(), to.string(), error.message());
}

}  // namespace

bool TrainedPart::trains(const std::string& name) const {
  return starts.empty() || std::any_of(starts.begin(), starts.end(),
                                       [&](const auto& start) { return name.starts_with(start); });
}

std::vector<TrainedPart> trained_parts(const CheckpointParts& parts, const TrainConfig& config) {
  std::vector<TrainedPart> trained;
  // First, since its gradients come last: buckets are summed from the end.
  if (parts.text_encoder) {
    trained.push_back(
        {.weights = &parts.text_encoder->weights(),
         .prefix = text_encoder_prefix,
         .folder = "text_encoder",
         .stem = "model",
         .targets = {"SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"}});
  }
  if (parts.denoiser) {
    trained.push_back({.weights = &parts.denoiser->weights(),
                       .folder = "transformer",
                       .stem = "diffusion_pytorch_model",
                       .targets = config.adapter.targets});
  }
  if (parts.vae) {
    trained.push_back({.weights = &parts.vae->weights(), .folder = "vae", .stem = "diffusion_pytorch_model"});
    if (config.autoencoder.decoder_only) trained.back().starts = {"decoder.", "post_quant_conv."};
  }
  return trained;
}

TrainedNumbers trained_numbers(const std::vector<TrainedPart>& parts, const TrainConfig& config) {
  TrainedNumbers numbers;
  std::map<int, int64_t> units;
  for (const TrainedPart& part : parts) {
    for (const WeightSlot& slot : part.weights->slots()) {
      const int64_t count = c10::multiply_integers(slot.shape);
      numbers.all += count;
      if (!config.trains_adapter() && part.trains(slot.name))
        units[unit_of(part.prefix + slot.name)] += count;
    }
    if (!config.trains_adapter()) continue;
    for (const LayerSlot& layer : lora_targets(*part.weights, part.targets)) {
      units[unit_of(part.prefix + layer.name)] +=
          config.adapter.rank * (layer.weight_shape[0] + layer.weight_shape[1]);
    }
  }
  for (const auto& [unit, count] : units) {
    numbers.trained += count;
    (unit == 0 ? numbers.first_unit : numbers.largest_block) =
        unit == 0 ? count : std::max(numbers.largest_block, count);
  }
  return numbers;
}

TrainedModel::TrainedModel(std::vector<TrainedPart> parts, const TrainJob& job, at::ScalarType dtype)
    : parts_(std::move(parts)), dtype_(dtype), adapter_(job.config.trains_adapter()) {
  if (adapter_) add_adapters(job);
}

void TrainedModel::add_adapters(const TrainJob& job) {
  const AdapterConfig& adapter = job.config.adapter;
  for (const TrainedPart& part : parts_) {
    const uint64_t seed = uint64_t(job.config.train.seed) + (part.prefix.empty() ? 0 : 1);
    const auto slots = lora_targets(*part.weights, part.targets);
    const auto changes =
        new_lora(slots, adapter.rank, adapter.alpha.value.value_or(double(adapter.rank)), seed);
    for (size_t i = 0; i < slots.size(); ++i) {
      const at::TensorOptions options = slots[i].computed->weight.options();
      auto& adapters = slots[i].computed->adapters;
      changes_.push_back(
          {slots[i], {.layer = part.prefix + changes[i].layer, .scale = changes[i].scale}, adapters.size()});
      adapters.push_back(
          {changes[i].a.to(options), changes[i].b.to(options), changes[i].scale, slots[i].first_row});
    }
  }
}

std::vector<TrainedParameter> TrainedModel::parameters() {
  std::vector<TrainedParameter> result;
  for (const Change& change : changes_) {
    const int unit = unit_of(change.written.layer);
    result.push_back({change.written.layer + ".lora_A", &change.now().a, unit});
    result.push_back({change.written.layer + ".lora_B", &change.now().b, unit});
  }
  if (adapter_) return result;
  for (const TrainedPart& part : parts_) {
    for (const WeightSlot& slot : part.weights->slots()) {
      if ((slot.whole && slot.first_row > 0) || !part.trains(slot.name)) continue;
      const std::string name = part.prefix + slot.name;
      result.push_back({name, slot.whole ? slot.whole : slot.target, unit_of(name)});
    }
  }
  return result;
}

void TrainedModel::refresh_parts() {
  if (adapter_) return;
  for (const TrainedPart& part : parts_) {
    for (const WeightSlot& slot : part.weights->slots()) {
      if (slot.whole) *slot.target = slot.whole->detach().narrow(0, slot.first_row, slot.shape[0]);
    }
  }
}

void TrainedModel::write(const fs::path& path, const Written& written, const TrainJob& job) const {
  const c10::NoGradGuard no_grad;
  if (adapter_) return write_lora_file(path, written, job);
  // A folder appears under its name when it is complete.
  const fs::path temporary = path.parent_path() / ("." + path.filename().string() + ".tmp");
  std::error_code error;
  fs::remove_all(temporary, error);
  try {
    make_output_directory(temporary);
    write_folder(temporary, written, job);
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
  fs::remove_all(path, error);
  fs::rename(temporary, path, error);
  if (error)
    fail(ExitCode::io, "{}: cannot be renamed to {}: {}", temporary.string(), path.string(), error.message());
}

void TrainedModel::write_lora_file(const fs::path& file, const Written& written, const TrainJob& job) const {
  std::vector<LoraLayer> layers;
  int64_t begin = 0;
  auto piece = [&](const at::Tensor& weight) {
    const at::Tensor here = written.average.defined()
                                ? written.average.narrow(0, begin, weight.numel()).view(weight.sizes())
                                : weight;
    begin += weight.numel();
    return here.detach().to(at::kCPU, at::kFloat).contiguous();
  };
  for (const Change& change : changes_) {
    layers.push_back(change.written);
    layers.back().a = piece(change.now().a);
    layers.back().b = piece(change.now().b);
  }
  write_lora(file, layers, parse_lora_form(job.config.adapter.format));
}

// Every weight of the part under its own name. `average`: of its trained weights, stacked ones with the first
// of them, as parameters() has them.
NamedTensors TrainedModel::tensors_of(const TrainedPart& part, const at::Tensor& average) const {
  std::map<const at::Tensor*, int64_t> begins;
  int64_t end = 0;
  for (const WeightSlot& slot : part.weights->slots()) {
    const at::Tensor* tensor = slot.whole ? slot.whole : slot.target;
    if (part.trains(slot.name) && begins.emplace(tensor, end).second) end += tensor->numel();
  }
  NamedTensors tensors;
  for (const WeightSlot& slot : part.weights->slots()) {
    const at::Tensor& tensor = slot.whole ? *slot.whole : *slot.target;
    const at::Tensor whole = average.defined() && part.trains(slot.name)
                                 ? average.narrow(0, begins.at(&tensor), tensor.numel()).view(tensor.sizes())
                                 : tensor;
    const at::Tensor here = slot.whole ? whole.narrow(0, slot.first_row, slot.shape[0]) : whole;
    tensors.emplace_back(slot.name, here.detach().to(at::kCPU, slot.dtype(dtype_)).contiguous());
  }
  return tensors;
}

void TrainedModel::write_folder(const fs::path& folder, const Written& written, const TrainJob& job) const {
  const fs::path source = job.config.model.path;
  std::set<fs::path> own;
  int64_t begin = 0;
  for (const TrainedPart& part : parts_) {
    const int64_t count = trained_numbers({part}, job.config).trained;
    const at::Tensor average =
        written.average.defined() ? written.average.narrow(0, begin, count) : at::Tensor();
    begin += count;
    own.insert(part.folder);
    make_output_directory(folder / part.folder);
    write_weights(folder / part.folder, part.stem, tensors_of(part, average));
    const fs::path config = fs::path(part.folder) / "config.json";
    if (written.settings.empty()) {
      link_or_copy(source / config, folder / config);
      continue;
    }
    Json settings = Json::parse(read_text_file(source / config, 64 << 20, "a configuration"));
    for (const auto& [key, value] : written.settings) settings[key] = value;
    write_file_atomically(folder / config, settings.dump(2) + "\n");
  }
  for (const auto& entry : fs::directory_iterator(source)) {
    if (!own.contains(entry.path().filename())) link_or_copy(entry.path(), folder / entry.path().filename());
  }
}

}  // namespace frameshard
