#include <string>
#include <utility>
#include <vector>

#include "core/hash.h"
#include "models/training/dataset.h"
#include "models/training/shapes_clips.h"

namespace frameshard {
namespace {

class ProceduralDataset : public Dataset {
 public:
  ProceduralDataset(const ProceduralConfig& procedural, const DataConfig& config)
      : choice_(procedural.only), seed_(uint64_t(procedural.seed)) {
    const ClipSize size{config.num_frames, config.height, config.width};
    for (int64_t i = 0; i < procedural.items; ++i) {
      DataItem item{
          .name = fmt::format("procedural {}", i), .caption = choice_.draw(seed_, i).caption(), .size = size};
      item.repeats = config.repeats;
      item.identity =
          fnv1a(fmt::format("shapes 1: {} {} {} at {}x{}x{}", procedural.only, seed_, i, size.frames,
                            size.height, size.width));  // 1: of the way in which they are drawn
      items_.push_back(std::move(item));
    }
  }
  const std::vector<DataItem>& items() const override { return items_; }
  const std::vector<SkippedItem>& skipped() const override { return skipped_; }
  bool reads_files() const override { return false; }
  at::Tensor frames(size_t item) const override {
    return render(choice_.draw(seed_, int64_t(item)), items_.at(item).size);
  }

 private:
  ShapesChoice choice_;
  uint64_t seed_;
  std::vector<DataItem> items_;
  std::vector<SkippedItem> skipped_;  // never any
};

}  // namespace

DatasetPtr open_procedural(const ProceduralConfig& procedural, const DataConfig& config) {
  return std::make_unique<ProceduralDataset>(procedural, config);
}

}  // namespace frameshard
