// What a model is trained on: clips and images with captions, in a fixed order that is the same on every
// rank.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/train_config.h"

namespace frameshard {

/// Size at which an item is trained.
struct ClipSize {
  int64_t frames = 1, height = 0, width = 0;
  auto operator<=>(const ClipSize&) const = default;
};

struct DataItem {
  std::string name;  ///< its path below the folder, or "procedural 12"
  std::string caption;
  int64_t repeats = 1;  ///< times that it counts in an epoch
  bool prior = false;   ///< of the class, not an instance (dreambooth)
  ClipSize size;
  uint64_t identity =
      0;  ///< of what it shows at this size, not of the caption: differs where content or size does
};

/// Why an item was left out.
struct SkippedItem {
  std::string name, reason;
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual const std::vector<DataItem>& items() const = 0;
  /// Left out while the folder was read.
  virtual const std::vector<SkippedItem>& skipped() const = 0;
  /// The item's frames [1, 3, F, H, W] float32 in [-1, 1] on the CPU, at its size. 65 where the file cannot
  /// be decoded.
  virtual at::Tensor frames(size_t item) const = 0;
  /// False where they are drawn: nothing can be wrong with them.
  virtual bool reads_files() const { return true; }
};
using DatasetPtr = std::unique_ptr<Dataset>;

/// Opens `data.folder` or draws `data.procedural`. 66 where the folder is missing; 65 where it holds no
/// usable item, a caption is missing (unless they may be), metadata.jsonl does not parse or names a file that
/// is not there. Clips that are too short, too small or unreadable are skipped items, or 65 with
/// `fail_on_bad_item`.
struct DatasetOptions {
  bool prior = false;      ///< marks all items so
  std::string caption;     ///< of all items, if not empty
  int64_t most_items = 0;  ///< the first ones alone; 0: all
  bool fail_on_bad_item = false;
};
DatasetPtr open_folder(const std::filesystem::path& folder, const DataConfig& config,
                       const DatasetOptions& options);
DatasetPtr open_procedural(const ProceduralConfig& procedural, const DataConfig& config);

}  // namespace frameshard
