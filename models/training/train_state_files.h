// The files of a saved training state: `state.json`, and `rank-%05d.safetensors` with tensors named
// `<kind>@<begin>`, each elements [begin, begin + size) of all weights laid one after another. Kinds are
// "weights" and those of Optimizer::state().
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/io/json_file.h"
#include "core/io/safetensors.h"

namespace frameshard {

inline constexpr const char* state_json = "state.json";
std::string rank_file(int rank);
std::string piece_name(const std::string& kind, int64_t begin);

/// Opened and checked by their headers alone. 66 or 65 where a file is not there or was cut off.
class TrainStateFiles {
 public:
  explicit TrainStateFiles(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const JsonReader& json() const { return json_; }
  bool has(const std::string& kind) const { return pieces_.contains(kind); }
  /// Elements [begin, begin + size of `destination`) of a kind, whatever pieces they are in; one piece is in
  /// memory at a time. 65 where some are missing or have another dtype than `destination`, [elements].
  void read(const std::string& kind, int64_t begin, const at::Tensor& destination) const;

 private:
  struct Piece {
    size_t file;
    TensorEntry entry;
  };
  void add(size_t file, const TensorEntry& entry);

  std::filesystem::path folder_;
  JsonReader json_;
  std::vector<WeightFiles> files_;
  std::map<std::string, std::map<int64_t, Piece>> pieces_;  // by kind and first element
};

}  // namespace frameshard
