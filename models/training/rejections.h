// Items that cannot be used, and why: found by the rank that tries them, then known to all.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "models/training/dataset.h"
#include "parallel/comm/communicator.h"

namespace frameshard {

class Rejections {
 public:
  /// With `fail_on_bad_item` the first one is 65.
  explicit Rejections(bool fail_on_bad_item) : fail_on_bad_item_(fail_on_bad_item) {}

  /// `number`: what reasons() has it by.
  void add(size_t number, const DataItem& item, const std::string& reason);
  /// An item's frames; nothing where its file is gone or cannot be decoded, which is a rejection.
  std::optional<at::Tensor> frames(const Dataset& data, size_t item, size_t number);
  /// All ranks have those of all from here on. Collective.
  void exchange(Communicator& world);
  const std::map<size_t, std::string>& reasons() const { return reasons_; }

 private:
  bool fail_on_bad_item_;
  std::map<size_t, std::string> reasons_{};
};

}  // namespace frameshard
