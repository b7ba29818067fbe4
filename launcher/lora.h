// `lora:` of a run: its files are checked before anything starts, and used when the denoiser is loaded.
#pragma once

#include <string>
#include <vector>

#include "models/checkpoint.h"

namespace frameshard {

/// What the files of a job hold and do, known without the model's weights.
struct LoraFacts {
  int64_t adapter_values = 0;       ///< numbers that stay beside the denoiser's weights
  int64_t text_encoder_values = 0;  ///< likewise beside the text encoder's
  bool changes_weights = false;     ///< merged, or with differences of whole weights
  std::string identity;             ///< hashes of the files; empty without any
  std::vector<std::string> notes;   ///< a line a file for the log
};

/// Reads all files once and compares them with the model's names and shapes. 66 for a missing one, 65 for one
/// that cannot be used, or not with this model.
LoraFacts check_lora(const std::vector<LoraConfig>& files, const Checkpoint& checkpoint);

/// Reads the files again, one after another, and adds their changes to a loaded part that nobody uses yet
/// (models/lora.h).
void use_lora_files(const std::vector<LoraConfig>& files, const Checkpoint& checkpoint,
                    const Denoiser& denoiser);
void use_lora_files(const std::vector<LoraConfig>& files, const Checkpoint& checkpoint,
                    const TextEncoder& text_encoder);

}  // namespace frameshard
