#include "parallel/comm/settle.h"

#include <exception>

#include "core/failure.h"
#include "parallel/comm/text.h"

namespace frameshard {

void settle(Communicator& group, const std::function<void()>& action) {
  Failure mine{.code = ExitCode::ok, .message = ""};
  std::exception_ptr thrown;
  try {
    action();
  } catch (...) {
    mine = current_failure();
    thrown = std::current_exception();
  }
  group.barrier();  // unlike other collectives it leaves the core to those that still work
  const auto codes = gather_numbers(group, {double(mine.code)});
  size_t failed = 0;
  while (failed < codes.size() && codes[failed][0] == 0) ++failed;
  if (failed == codes.size()) return;
  const auto messages = gather_texts(group, mine.message);
  if (int(failed) == group.rank()) std::rethrow_exception(thrown);
  throw Error(ExitCode(int(codes[failed][0])), messages[failed]);
}

std::vector<bool> on_any(const std::vector<bool>& mine, Communicator& group) {
  at::Tensor flags = at::zeros({int64_t(mine.size())}, at::kLong);
  std::copy(mine.begin(), mine.end(), flags.data_ptr<int64_t>());
  group.barrier();  // unlike other collectives it leaves the core to those that still read
  group.all_reduce(flags, ReduceOp::max);
  std::vector<bool> any(mine.size());
  std::copy_n(flags.data_ptr<int64_t>(), any.size(), any.begin());
  return any;
}

bool on_any(bool mine, Communicator& group) {
  return on_any(std::vector<bool>{mine}, group).front();
}

}  // namespace frameshard
