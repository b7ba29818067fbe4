#include "launcher/settle.h"

#include <algorithm>

#include "core/phase.h"
#include "launcher/failure.h"
#include "parallel/comm/text.h"

namespace frameshard {

void all_or_none(Communicator& world, const std::function<void()>& action) {
  Failure mine{.code = ExitCode::ok, .message = ""};
  try {
    action();
  } catch (...) {
    mine = current_failure();
  }
  const auto all = gather_texts(world, std::to_string(int(mine.code)));
  const auto failed = std::find_if(all.begin(), all.end(), [](auto& code) { return code != "0"; });
  if (failed == all.end()) return;
  if (failed - all.begin() == world.rank()) {
    print_failure(fmt::format("FAILED at {}: {}", current_phase(), mine.message));
  }
  world.barrier();  // the message is out
  throw Ended{std::stoi(*failed)};
}

}  // namespace frameshard
