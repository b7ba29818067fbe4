// What layers are called in files of low-rank changes: as diffusers names them, as Wan's own checkpoints do,
// and that with _ for each dot (kohya).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/lora.h"

namespace frameshard {

/// Wan's own name of what diffusers names so: "blocks.0.attn1.to_q" -> "blocks.0.self_attn.q". Careful: its
/// norm3 is diffusers' norm2. A name that the two share stays.
std::string original_name(std::string name);

/// What a tensor of a file is to its layer.
enum class LoraPart { a, b, alpha, weight_difference, bias_difference };

struct LoraKey {
  std::string layer;  ///< as LoraLayer::layer
  LoraPart part;
};

/// The name that a file of this form has for a tensor.
std::string lora_key(const std::string& layer, LoraPart part, LoraForm form);

/// A text encoder's.
bool is_text_encoder_key(const std::string& key);

/// The names of a denoiser's layers in all forms, and those of its text encoder, which begin with
/// text_encoder_prefix.
class LoraNames {
 public:
  explicit LoraNames(const WeightList& denoiser, const WeightList* text_encoder = nullptr);

  /// Nothing for a name that is no layer's, or no part of a change.
  std::optional<LoraKey> find(const std::string& key) const;
  /// Names of all layers, norms and tables in the list's order, without ".weight" and ".bias".
  const std::vector<std::string>& modules() const { return modules_; }
  /// Null for a norm or a table: only differences of the whole can be added to those.
  const LayerSlot* layer(const std::string& module) const;
  /// Of ".weight", or of a table itself; of ".bias". Null where there is none.
  const WeightSlot* weight(const std::string& module) const;
  const WeightSlot* bias(const std::string& module) const;

 private:
  void add_slots(const WeightList& list, const std::string& prefix);

  std::vector<std::string> modules_;
  std::map<std::string, const LayerSlot*> layers_;
  std::map<std::string, const WeightSlot*> slots_;
  std::map<std::string, std::string> diffusers_, original_, kohya_, kohya_text_;  ///< name -> module
};

}  // namespace frameshard
