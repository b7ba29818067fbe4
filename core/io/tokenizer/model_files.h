// The files of a tokenizer folder.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "core/io/tokenizer/unigram.h"

namespace frameshard::tokenizing {

/// What spiece.model holds.
struct Model {
  std::string bytes;  ///< the file itself
  std::vector<Piece> pieces;
};

/// Reads `tokenizer_dir`/spiece.model. Fails with ExitCode::missing_file where it is not there,
/// ExitCode::bad_data where it is no model of T5's, ExitCode::config where the engine was built without
/// sentencepiece.
Model read_model(const std::filesystem::path& tokenizer_dir);

/// The character map of a model, as a part of its `bytes`; empty where it has none.
std::string_view model_charsmap(std::string_view bytes);

/// A JSON file of the folder without the vocabulary, which is large and read from spiece.model; null where
/// the file is not there. Fails with ExitCode::bad_data where it does not hold a JSON object.
nlohmann::json read_json(const std::filesystem::path& path);

/// The character map of tokenizer.json: of its Precompiled normaliser, alone or the first in a sequence. The
/// reference drops any other normaliser, and has none where this one is not there.
std::string json_charsmap(const nlohmann::json& tokenizer);

}  // namespace frameshard::tokenizing
