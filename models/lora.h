// Low-rank changes of a model's layers (LoRA, https://arxiv.org/abs/2106.09685) and their files, in the three
// forms that are about: diffusers' (PEFT), ComfyUI's and kohya's.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "models/weights.h"

namespace frameshard {

/// One file of low-rank changes, its tensors not read yet.
enum class LoraForm { diffusers, comfyui, kohya };
LoraForm parse_lora_form(const std::string& word);

/// Before the names of a text encoder's layers, where those of a denoiser are beside them.
inline constexpr const char* text_encoder_prefix = "text_encoder.";

/// A change of one layer as a file has it.
struct LoraLayer {
  std::string layer;  ///< as LayerSlot::name; a text encoder's with text_encoder_prefix
  at::Tensor a;  ///< [r, in] float32 on the CPU; of a layer with a kernel [r, in, kernel…]; may be undefined
  at::Tensor b;      ///< [out, r]; of a layer with a kernel [out, r, 1…]; undefined with `a`
  double scale = 1;  ///< alpha / rank, as the file says
  at::Tensor weight_difference,
      bias_difference;  ///< added as they are (ComfyUI's .diff and .diff_b), or undefined
};

/// Reads a file of any of the three forms: all layers of the denoiser that `denoiser` names, and after them
/// those of the text encoder. 66 without a file; 65 where a name is none of them, a shape does not fit, a
/// pair is incomplete, a value is not finite, or nothing matches at all: a LoRA for another model. A text
/// encoder's that are not of this one, or where none is given, are left out with a warning.
std::vector<LoraLayer> read_lora(const std::filesystem::path& file, const WeightList& denoiser,
                                 const WeightList* text_encoder = nullptr);

/// Those of one model, by the names of its own list.
std::vector<LoraLayer> denoiser_changes(const std::vector<LoraLayer>& changes);
std::vector<LoraLayer> text_encoder_changes(const std::vector<LoraLayer>& changes);

/// Writes changes in one of the forms; what cannot be said in it (a weight difference in diffusers' form) is
/// an error (78). The scale is written as alpha = scale * rank; diffusers' form, which has no place for it
/// that all its readers know, gets it within b. 74 where the file cannot be written.
void write_lora(const std::filesystem::path& file, const std::vector<LoraLayer>& layers, LoraForm form,
                const std::map<std::string, std::string>& metadata = {});

/// Adds changes to the layers of a loaded model, by whose list they are named, `scale` times: merged into its
/// weights (which must not be shared with others), or as adapters that apply() (common/layers.h) computes
/// beside them. Differences of whole weights can only be merged, and always are. Several files add up.
struct UseLora {
  double scale = 1;
  bool merge = false;
};
void use_lora(const std::vector<LoraLayer>& changes, const WeightList& list, UseLora use);

/// Layers whose name ends with one of `targets`, at a dot, or matches one that has * for any text; empty:
/// to_q, to_k, to_v and to_out.0 of all attentions. 78 for a target that matches no layer, with names that
/// are there. In the list's order. Layers with kernels are no targets.
std::vector<LayerSlot> lora_targets(const WeightList& list, const std::vector<std::string>& targets);

/// New changes of these layers, to be trained: `a` uniform as Kaiming's with gain sqrt(5) (within sqrt(1 /
/// in)) drawn from the seed in the list's order, `b` zero, float32 on the CPU.
std::vector<LoraLayer> new_lora(const std::vector<LayerSlot>& layers, int64_t rank, double alpha,
                                uint64_t seed);

}  // namespace frameshard
