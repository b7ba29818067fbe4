// Reading and writing files of low-rank changes.
#include <mutex>
#include <set>

#include "core/error.h"
#include "core/io/json_file.h"
#include "core/io/safetensors.h"
#include "core/log.h"
#include "core/text.h"
#include "models/lora_names.h"

namespace frameshard {
namespace {

namespace fs = std::filesystem;

// Alphas of diffusers' form: PEFT's settings, as JSON in the file's metadata.
class PeftAlphas {
 public:
  /// `prefix` names the model in the settings: "transformer." or text_encoder_prefix.
  PeftAlphas(const fs::path& file, const std::string& prefix) {
    const auto metadata = read_safetensors_metadata(file);
    const auto text = metadata.find("lora_adapter_metadata");
    if (text == metadata.end()) return;
    try {
      const Json all = Json::parse(text->second);
      auto setting = [&](const char* name) {
        return all.contains(prefix + name) ? all.at(prefix + name) : all.value(name, Json());
      };
      if (const Json alpha = setting("lora_alpha"); alpha.is_number()) alpha_ = alpha.get<double>();
      if (const Json root = setting("use_rslora"); root.is_boolean()) by_root_ = root.get<bool>();
      if (const Json pattern = setting("alpha_pattern"); pattern.is_object()) {
        by_layer_ = pattern.get<std::map<std::string, double>>();
      }
    } catch (const nlohmann::json::exception& error) {
      fail(ExitCode::bad_data, "{}: corrupt metadata lora_adapter_metadata: {}", file.string(),
           one_line(error.what()));
    }
  }

  // 1 where the file does not say.
  double scale(const std::string& layer, int64_t rank) const {
    std::optional<double> alpha = alpha_;
    for (std::string name = layer;; name.erase(0, name.find('.') + 1)) {
      const auto own = by_layer_.find(name);
      if (own != by_layer_.end()) alpha = own->second;
      if (own != by_layer_.end() || name.find('.') == std::string::npos) break;
    }
    if (!alpha) return 1;
    return *alpha / (by_root_ ? std::sqrt(double(rank)) : double(rank));
  }

 private:
  std::optional<double> alpha_;
  std::map<std::string, double> by_layer_;
  bool by_root_ = false;
};

class LoraReader {
 public:
  LoraReader(const fs::path& file, const WeightList& denoiser, const WeightList* text_encoder)
      : file_(file),
        names_(denoiser, text_encoder),
        tensors_(WeightFiles::open(file)),
        alphas_(file, "transformer."),
        text_alphas_(file, text_encoder_prefix) {}

  std::vector<LoraLayer> read() {
    sort_names();
    std::vector<LoraLayer> layers;
    for (const std::string& module : names_.modules()) {
      const auto parts = parts_.find(module);
      if (parts != parts_.end()) layers.push_back(layer(module, parts->second));
    }
    return layers;
  }

 private:
  using Parts = std::map<LoraPart, const TensorEntry*>;

  void sort_names() {
    std::vector<std::string> unknown;
    int64_t of_text_encoder = 0;
    for (const auto& [name, entry] : tensors_.tensors()) {
      if (const auto key = names_.find(name)) {
        const auto [first, fresh] = parts_[key->layer].emplace(key->part, &entry);
        if (!fresh) {
          fail(ExitCode::bad_data, "{}: \"{}\" and \"{}\" are the same part of {}", file_.string(),
               one_line(first->second->name), one_line(name), key->layer);
        }
      } else if (is_text_encoder_key(name)) {
        ++of_text_encoder;
      } else {
        unknown.push_back(fmt::format("{} {}", one_line(name), format_shape(entry.shape)));
      }
    }
    refuse_another_model(unknown, of_text_encoder);
    if (of_text_encoder > 0) warn_of_text_encoder(of_text_encoder);
  }

  // Once a file: a run reads its files when it is checked and again when the model is loaded.
  void warn_of_text_encoder(int64_t of_text_encoder) const {
    static std::mutex mutex;
    static std::set<std::string> warned;
    const std::lock_guard lock(mutex);
    if (!warned.insert(file_.string()).second) return;
    log::warning("{}: its {} tensors of a text encoder are left out: they change no layer of this model's",
                 file_.string(), of_text_encoder);
  }

  void refuse_another_model(const std::vector<std::string>& unknown, int64_t of_text_encoder) const {
    if (parts_.empty()) {
      fail(
          ExitCode::bad_data,
          "{}: none of its {} tensors changes a layer of this model{}; is it a LoRA, and one for this model?",
          file_.string(), tensors_.tensors().size(),
          !unknown.empty()       ? ", the first: " + unknown[0]
          : of_text_encoder != 0 ? " (they are a text encoder's)"
                                 : "");
    }
    if (unknown.empty()) return;
    const size_t shown = std::min<size_t>(unknown.size(), 10);
    std::string lines =
        fmt::format("\n  {}", fmt::join(unknown.begin(), unknown.begin() + long(shown), "\n  "));
    if (unknown.size() > shown) lines += fmt::format("\n  ... and {} more", unknown.size() - shown);
    fail(ExitCode::bad_data,
         "{}: {} of its {} tensors change no layer of this model, or in a way that is not known; use a LoRA "
         "for "
         "this model, of plain low-rank changes:{}",
         file_.string(), unknown.size(), tensors_.tensors().size(), lines);
  }

  LoraLayer layer(const std::string& module, const Parts& parts) const {
    LoraLayer layer{.layer = module};
    if (parts.contains(LoraPart::a) || parts.contains(LoraPart::b) || parts.contains(LoraPart::alpha)) {
      read_pair(layer, parts);
    }
    auto difference = [&](LoraPart part, const WeightSlot* slot) {
      if (!parts.contains(part)) return at::Tensor();
      require_shape(*parts.at(part), slot->shape, module);
      return values(*parts.at(part));
    };
    layer.weight_difference = difference(LoraPart::weight_difference, names_.weight(module));
    layer.bias_difference = difference(LoraPart::bias_difference, names_.bias(module));
    return layer;
  }

  void read_pair(LoraLayer& layer, const Parts& parts) const {
    auto part = [&](LoraPart which) {
      const auto at = parts.find(which);
      return at == parts.end() ? nullptr : at->second;
    };
    const TensorEntry *a = part(LoraPart::a), *b = part(LoraPart::b), *alpha = part(LoraPart::alpha);
    const bool whole_weight = parts.contains(LoraPart::weight_difference);
    if (!a && !b && whole_weight) return;  // an alpha beside it says nothing
    if (!a || !b) {
      fail(ExitCode::bad_data,
           "{}: the change of {} is incomplete: {} is there, its {} is missing; is the file whole?",
           file_.string(), layer.layer,
           one_line((a   ? a
                     : b ? b
                         : alpha)
                        ->name),
           !a && !b ? "pair of matrices"
           : a      ? "lora_B (lora_up)"
                    : "lora_A (lora_down)");
    }
    std::vector<int64_t> down = names_.layer(layer.layer)->weight_shape, up(down.size(), 1);
    const int64_t rank = a->shape.empty() ? 0 : a->shape[0];
    up[0] = std::exchange(down[0], rank);
    up[1] = rank;
    if (rank < 1) require_shape(*a, {1, down[1]}, layer.layer);
    require_shape(*a, down, layer.layer);
    require_shape(*b, up, layer.layer);
    layer.a = values(*a);
    layer.b = values(*b);
    const PeftAlphas& alphas = layer.layer.starts_with(text_encoder_prefix) ? text_alphas_ : alphas_;
    layer.scale = alpha ? alpha_of(*alpha) / double(rank) : alphas.scale(layer.layer, rank);
  }

  double alpha_of(const TensorEntry& entry) const {
    if (c10::multiply_integers(entry.shape) != 1) {
      fail(ExitCode::bad_data, "{}: {} must be one number, and has shape {}", file_.string(),
           one_line(entry.name), format_shape(entry.shape));
    }
    return values(entry).item<double>();
  }

  void require_shape(const TensorEntry& entry, const std::vector<int64_t>& wanted,
                     const std::string& module) const {
    if (entry.shape == wanted) return;
    fail(ExitCode::bad_data,
         "{}: {} has shape {}, and {} of this model, of {}, needs {}: a LoRA for a model of another size?",
         file_.string(), one_line(entry.name), format_shape(entry.shape), module,
         format_shape(names_.weight(module)->shape), format_shape(wanted));
  }

  at::Tensor values(const TensorEntry& entry) const {
    const at::Tensor read = tensors_.read(entry.name).to(at::kFloat);
    if (!read.isfinite().all().item<bool>()) {
      fail(ExitCode::bad_data, "{}: {} has values that are NaN or Inf; the file cannot be used",
           file_.string(), one_line(entry.name));
    }
    return read;
  }

  const fs::path& file_;
  LoraNames names_;
  WeightFiles tensors_;
  PeftAlphas alphas_, text_alphas_;
  std::map<std::string, Parts> parts_;  // by module
};

void add_pair(NamedTensors& tensors, const LoraLayer& layer, LoraForm form) {
  // diffusers' form has no place for alpha that all its readers know: b has it within.
  const bool folded = form == LoraForm::diffusers && layer.scale != 1;
  tensors.emplace_back(lora_key(layer.layer, LoraPart::a, form), layer.a.contiguous());
  tensors.emplace_back(lora_key(layer.layer, LoraPart::b, form),
                       (folded ? layer.b * layer.scale : layer.b).contiguous());
  if (form == LoraForm::diffusers || (form == LoraForm::comfyui && layer.scale == 1)) return;
  const double alpha = layer.scale * double(layer.a.size(0));
  tensors.emplace_back(lora_key(layer.layer, LoraPart::alpha, form), at::scalar_tensor(alpha, at::kFloat));
}

}  // namespace

LoraForm parse_lora_form(const std::string& word) {
  if (word == "diffusers") return LoraForm::diffusers;
  if (word == "comfyui") return LoraForm::comfyui;
  if (word == "kohya") return LoraForm::kohya;
  fail(ExitCode::config, "{} is no form of LoRA files; diffusers, comfyui and kohya are",
       quote_for_message(word));
}

std::vector<LoraLayer> read_lora(const fs::path& file, const WeightList& denoiser,
                                 const WeightList* text_encoder) {
  return LoraReader(file, denoiser, text_encoder).read();
}

void write_lora(const fs::path& file, const std::vector<LoraLayer>& layers, LoraForm form,
                const std::map<std::string, std::string>& metadata) {
  NamedTensors tensors;
  for (const LoraLayer& layer : layers) {
    if (layer.a.defined()) add_pair(tensors, layer, form);
    if (!layer.weight_difference.defined() && !layer.bias_difference.defined()) continue;
    if (form == LoraForm::diffusers) {
      fail(
          ExitCode::config,
          "{}: a difference of the whole weight or bias of {} cannot be said in diffusers' form; write it in "
          "ComfyUI's",
          file.string(), layer.layer);
    }
    for (const auto& [part, difference] : {std::pair(LoraPart::weight_difference, layer.weight_difference),
                                           std::pair(LoraPart::bias_difference, layer.bias_difference)}) {
      if (difference.defined()) {
        tensors.emplace_back(lora_key(layer.layer, part, form), difference.contiguous());
      }
    }
  }
  std::map<std::string, std::string> all = metadata;
  all.emplace("format", "pt");  // some readers want it
  write_safetensors(file, tensors, all);
}

}  // namespace frameshard
