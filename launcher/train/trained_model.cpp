#include "launcher/train/trained_model.h"

#include <fstream>

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/io/run_directory.h"
#include "core/io/safetensors.h"

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

TrainedNumbers trained_numbers(const WeightList& weights, const TrainConfig& config) {
  TrainedNumbers numbers;
  std::map<int, int64_t> units;
  for (const WeightSlot& slot : weights.slots()) {
    const int64_t count = c10::multiply_integers(slot.shape);
    numbers.all += count;
    if (!config.trains_adapter()) units[unit_of(slot.name)] += count;
  }
  if (config.trains_adapter()) {
    for (const LayerSlot& layer : lora_targets(weights, config.adapter.targets)) {
      units[unit_of(layer.name)] += config.adapter.rank * (layer.weight_shape[0] + layer.weight_shape[1]);
    }
  }
  for (const auto& [unit, count] : units) {
    numbers.trained += count;
    (unit == 0 ? numbers.first_unit : numbers.largest_block) =
        unit == 0 ? count : std::max(numbers.largest_block, count);
  }
  return numbers;
}

TrainedModel::TrainedModel(Denoiser& denoiser, const TrainJob& job)
    : denoiser_(denoiser), adapter_(job.config.trains_adapter()) {
  if (adapter_) add_adapters(job);
}

void TrainedModel::add_adapters(const TrainJob& job) {
  const AdapterConfig& adapter = job.config.adapter;
  slots_ = lora_targets(denoiser_.weights(), adapter.targets);
  changes_ = new_lora(slots_, adapter.rank, adapter.alpha.value.value_or(double(adapter.rank)),
                      uint64_t(job.config.train.seed));
  for (size_t i = 0; i < slots_.size(); ++i) {
    const at::TensorOptions options = slots_[i].computed->weight.options();
    auto& adapters = slots_[i].computed->adapters;
    places_.push_back(adapters.size());
    adapters.push_back(
        {changes_[i].a.to(options), changes_[i].b.to(options), changes_[i].scale, slots_[i].first_row});
  }
}

std::vector<TrainedParameter> TrainedModel::parameters() {
  std::vector<TrainedParameter> result;
  if (adapter_) {
    for (size_t i = 0; i < slots_.size(); ++i) {
      LowRank& change = slots_[i].computed->adapters[places_[i]];
      const int unit = unit_of(slots_[i].name);
      result.push_back({slots_[i].name + ".lora_A", &change.a, unit});
      result.push_back({slots_[i].name + ".lora_B", &change.b, unit});
    }
    return result;
  }
  for (const WeightSlot& slot : denoiser_.weights().slots()) {
    if (slot.whole && slot.first_row > 0) continue;
    result.push_back({slot.name, slot.whole ? slot.whole : slot.target, unit_of(slot.name)});
  }
  return result;
}

void TrainedModel::refresh_parts() {
  if (adapter_) return;
  for (const WeightSlot& slot : denoiser_.weights().slots()) {
    if (slot.whole) *slot.target = slot.whole->detach().narrow(0, slot.first_row, slot.shape[0]);
  }
}

void TrainedModel::write(const fs::path& path, const at::Tensor& average, const TrainJob& job) const {
  const c10::NoGradGuard no_grad;
  if (adapter_) return write_lora_file(path, average, job);
  // A folder appears under its name when it is complete.
  const fs::path temporary = path.parent_path() / ("." + path.filename().string() + ".tmp");
  std::error_code error;
  fs::remove_all(temporary, error);
  try {
    make_output_directory(temporary);
    write_folder(temporary, average, job);
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
  fs::remove_all(path, error);
  fs::rename(temporary, path, error);
  if (error)
    fail(ExitCode::io, "{}: cannot be renamed to {}: {}", temporary.string(), path.string(), error.message());
}

void TrainedModel::write_lora_file(const fs::path& file, const at::Tensor& average,
                                   const TrainJob& job) const {
  std::vector<LoraLayer> layers = changes_;
  int64_t begin = 0;
  auto piece = [&](const at::Tensor& weight) {
    const at::Tensor here =
        average.defined() ? average.narrow(0, begin, weight.numel()).view(weight.sizes()) : weight;
    begin += weight.numel();
    return here.detach().to(at::kCPU, at::kFloat).contiguous();
  };
  for (size_t i = 0; i < layers.size(); ++i) {
    const LowRank& change = slots_[i].computed->adapters[places_[i]];
    layers[i].a = piece(change.a);
    layers[i].b = piece(change.b);
  }
  write_lora(file, layers, parse_lora_form(job.config.adapter.format));
}

void TrainedModel::write_folder(const fs::path& folder, const at::Tensor& average,
                                const TrainJob& job) const {
  const fs::path source = job.config.model.path;
  // Where each trained tensor begins in the flat order: that of the slots, stacked ones with the first of
  // them.
  std::map<const at::Tensor*, int64_t> begins;
  int64_t end = 0;
  for (const WeightSlot& slot : denoiser_.weights().slots()) {
    const at::Tensor* tensor = slot.whole ? slot.whole : slot.target;
    if (begins.emplace(tensor, end).second) end += tensor->numel();
  }
  NamedTensors tensors;
  for (const WeightSlot& slot : denoiser_.weights().slots()) {
    const at::Tensor& tensor = slot.whole ? *slot.whole : *slot.target;
    const at::Tensor whole = average.defined()
                                 ? average.narrow(0, begins.at(&tensor), tensor.numel()).view(tensor.sizes())
                                 : tensor;
    const at::Tensor here = slot.whole ? whole.narrow(0, slot.first_row, slot.shape[0]) : whole;
    tensors.emplace_back(slot.name, here.detach().to(at::kCPU, slot.dtype(denoiser_.dtype())).contiguous());
  }
  make_output_directory(folder / "transformer");
  write_weights(folder / "transformer", "diffusion_pytorch_model", tensors);
  link_or_copy(source / "transformer" / "config.json", folder / "transformer" / "config.json");
  for (const auto& entry : fs::directory_iterator(source)) {
    if (entry.path().filename() != "transformer")
      link_or_copy(entry.path(), folder / entry.path().filename());
  }
}

}  // namespace frameshard
