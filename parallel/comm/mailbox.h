// Short texts from any rank of a group to its rank 0, answered there at any time: also while rank 0 itself
// computes, or waits in a collective.
#pragma once

#include <functional>
#include <string>

namespace frameshard {

/// Runs on rank 0's process, one call at a time, on a thread of the backend's choice. What it throws is
/// thrown again in the rank that asked.
using MailHandler = std::function<std::string(int rank, const std::string& text)>;

/// Opened by Communicator::open_mailbox(). Destroyed by every rank: on rank 0 that waits until all others
/// have done so, unless a failure is on its way. What the handler refers to must outlive rank 0's mailbox.
class Mailbox {
 public:
  virtual ~Mailbox() = default;
  /// The handler's answer. One question at a time a rank.
  virtual std::string ask(const std::string& text) = 0;
};

}  // namespace frameshard
