// The text encoder's tokeniser: prompts to token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

namespace frameshard {

/// A prompt as the text encoder takes it.
struct TokenIds {
  std::vector<int64_t> ids;  ///< max_length ids, filled up with the id of `<pad>`, 0
  int64_t length;            ///< how many of them are the prompt's own, `</s>` included
};

/// The tokeniser of T5 and umT5, giving the ids that transformers 5's T5Tokenizer gives for the same folder.
///
/// That tokeniser is not sentencepiece's own: it normalises and segments by other rules (tokenizer.cpp says
/// which), so sentencepiece only reads the model here.
class Tokenizer {
 public:
  /// Reads `tokenizer_dir`/spiece.model and, where they exist, tokenizer.json, tokenizer_config.json and
  /// special_tokens_map.json, which list the tokens that count as one wherever they stand in a prompt.
  ///
  /// Fails with ExitCode::missing_file where spiece.model is not there, ExitCode::bad_data where a file
  /// cannot be used, ExitCode::config where the engine was built without sentencepiece.
  explicit Tokenizer(const std::filesystem::path& tokenizer_dir);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Token ids of `cleaned_text` (UTF-8, from clean_prompt), cut so that they and `</s>` fit `max_length`
  /// (tokens, at least 1), and padded to it. Source of the rule: how diffusers' Wan pipeline calls its
  /// tokeniser (padding="max_length", truncation=True, add_special_tokens=True).
  TokenIds encode(std::string_view cleaned_text, int64_t max_length) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace frameshard
