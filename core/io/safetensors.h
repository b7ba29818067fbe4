// The safetensors format: https://github.com/huggingface/safetensors#format
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>

namespace frameshard {

/// Where one tensor lies.
struct TensorEntry {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  size_t file;      ///< index into WeightFiles::files()
  uint64_t offset;  ///< of its first byte, from the start of the file
  uint64_t bytes;
};

/// The tensors of one component of a checkpoint: a single .safetensors file, or all shards of an index.
/// Opening reads and checks the headers alone; tensors are read one at a time, straight into their final
/// place.
class WeightFiles {
 public:
  /// Opens a file, or a folder's `<stem>.safetensors` or `<stem>.safetensors.index.json`.
  /// 66 where nothing is there; 65 for a pickle, a truncated or corrupt file, and bad shard names.
  static WeightFiles open(const std::filesystem::path& file);
  static WeightFiles open_component(const std::filesystem::path& folder, const std::string& stem);

  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }
  const std::vector<std::filesystem::path>& files() const { return files_; }
  const TensorEntry* find(const std::string& name) const;

  /// Reads a tensor into `destination` (same shape, any dtype and device), through a small buffer where bytes
  /// have to be converted or moved, so that no second copy of a weight exists. 65 where the file became
  /// shorter.
  void read_into(const TensorEntry& entry, at::Tensor& destination) const;
  /// Reads a tensor as it is stored, onto the CPU.
  at::Tensor read(const std::string& name) const;

  /// Names, sizes, and hashes of the headers and of samples of the data of the files, a line each: ranks that
  /// see other weights differ here.
  std::string fingerprint() const;

 private:
  void add_file(const std::filesystem::path& file);
  void add_shards(const std::filesystem::path& index);

  std::vector<std::filesystem::path> files_;
  std::vector<std::string> fingerprints_;
  std::map<std::string, TensorEntry> tensors_;
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Writes CPU tensors to `file`, which appears only when complete. 74 where it cannot be written.
void write_safetensors(const std::filesystem::path& file, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata = {});

/// What a file's header says beside its tensors. Texts alone count, as the format wants; 65 and 66 as opening
/// it.
std::map<std::string, std::string> read_safetensors_metadata(const std::filesystem::path& file);

/// "BF16" and the like; 65 for a name that LibTorch has no type for.
at::ScalarType dtype_from_safetensors(const std::string& name, const std::string& context);
std::string dtype_to_safetensors(at::ScalarType dtype);

/// "[2, 3]"
std::string format_shape(at::IntArrayRef shape);

}  // namespace frameshard
