#include "models/training/rejections.h"

#include <sstream>

#include "core/error.h"
#include "core/text.h"
#include "parallel/comm/text.h"

namespace frameshard {

void Rejections::add(size_t number, const DataItem& item, const std::string& reason) {
  if (fail_on_bad_item_) {
    fail(ExitCode::bad_data, "{}: {}; repair or remove it, or leave it out: train.fail_on_bad_item=false",
         item.name, reason);
  }
  reasons_[number] = one_line(reason, 400);
}

std::optional<at::Tensor> Rejections::frames(const Dataset& data, size_t item, size_t number) {
  try {
    return data.frames(item);
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_data && error.code() != ExitCode::missing_file) throw;
    add(number, data.items()[item], error.what());
    return std::nullopt;
  }
}

void Rejections::exchange(Communicator& world) {
  std::string mine;
  for (const auto& [number, reason] : reasons_) mine += fmt::format("{} {}\n", number, reason);
  for (const std::string& text : gather_texts(world, mine)) {
    std::istringstream lines(text);
    size_t number;
    for (std::string reason; lines >> number && std::getline(lines >> std::ws, reason);)
      reasons_[number] = reason;
  }
}

}  // namespace frameshard
