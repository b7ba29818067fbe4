// Tokens that count as one wherever they stand in a prompt.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "core/io/tokenizer/unigram.h"

namespace frameshard::tokenizing {

/// A token that counts as one wherever it stands in a prompt.
struct AddedToken {
  std::string content;
  int64_t id;
  bool lstrip = false;      ///< takes the white space before it
  bool rstrip = false;      ///< takes the white space behind it
  bool normalized = false;  ///< looked for after normalisation
};

/// A part of a prompt: text, or an added token where `id` is set.
struct Segment {
  std::string_view text;
  std::optional<int64_t> id;
};

/// Cuts `text` at the tokens in it, of which the longest wins where several match. Text parts point into
/// `text`.
std::vector<Segment> split(const std::vector<AddedToken>& tokens, std::string_view text);

/// The added tokens of a folder, each content once. Of several places that name it the first decides:
/// tokenizer.json, the ids of tokenizer_config.json, the three tokens that every T5 model has, the names
/// alone in tokenizer_config.json, those in special_tokens_map.json. Each document is a JSON object, or null
/// where the file is not there.
///
/// Fails with ExitCode::bad_data for a flag that is not supported; nlohmann's and the standard library's
/// exceptions for values of the wrong kind pass through.
std::vector<AddedToken> read_added_tokens(const Unigram& unigram, const nlohmann::json& tokenizer,
                                          const nlohmann::json& config, const nlohmann::json& special_map);

}  // namespace frameshard::tokenizing
