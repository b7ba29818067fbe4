// Makes the files of a sample store (sample_store.h), all ranks together.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/training/rejections.h"
#include "models/training/sample_store.h"

namespace frameshard {

/// One file, and what it is made from: latents of an item, or the embedding of a caption.
struct SampleSource {
  std::filesystem::path file;
  std::optional<size_t> item;
  std::string caption{};
};

class SampleEncoder {
 public:
  SampleEncoder(const Dataset& data, const Checkpoint& checkpoint, const StoreOptions& options,
                Communicator& world);

  /// Checks every file on every host, and makes those that are missing or damaged. Returns why the others
  /// could not be made, by number of the source. Collective, as are its errors.
  std::map<size_t, std::string> complete(const std::vector<SampleSource>& sources);

 private:
  using Numbers = std::vector<size_t>;  // of sources

  std::vector<bool> missing_here(const Numbers& asked);
  void make(Numbers wanted, const std::vector<bool>& missing, Communicator& team);
  int64_t cost(size_t source) const;
  void in_rounds(const Numbers& mine, const std::function<void(size_t)>& make_file);
  void make_latents(size_t source);
  void make_text(size_t source);

  const Dataset& data_;
  const Checkpoint& checkpoint_;
  const StoreOptions& options_;
  Communicator& world_;
  CommPtr host_;  // ranks that see the same directory
  std::vector<SampleSource> sources_{};
  Rejections rejected_;
  std::unique_ptr<Vae> vae_{};
  std::unique_ptr<TextEncoder> text_encoder_{};
  LoadOptions text_load_{};
  int64_t done_ = 0, total_ = 0;  // of what all ranks make now
};

}  // namespace frameshard
