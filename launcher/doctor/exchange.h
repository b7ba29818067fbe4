// How fast ranks exchange: all_to_all and all_gather over message sizes.
#pragma once

#include <functional>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// Seconds of one operation on the slowest rank, by bytes of the buffer that each rank holds: all_to_all
/// sends it divided over the ranks, all_gather ends with it (as nccl-tests count).
struct ExchangeRow {
  int64_t bytes = 0;
  double all_to_all = 0, all_gather = 0;
};

/// Groups that exchange at the same time: all ranks, those of each host, or one of each host.
struct ExchangeGroup {
  std::string name;               ///< "between hosts"
  Communicator* group = nullptr;  ///< this rank's; a group of one only waits
  int size = 1;                   ///< of the largest such group
};

/// Measures in about `seconds`; collective over `world`, which times and agrees. `at` is called with what
/// runs next, before it may have to wait.
std::vector<ExchangeRow> measure_exchange(Communicator& world, const ExchangeGroup& group,
                                          const at::Device& device, double seconds,
                                          const std::function<void(const std::string&)>& at);

/// Bytes a second that a rank sends to others.
double sent_a_second(int64_t bytes, int ranks, double seconds);

/// The table, its lines indented.
std::string exchange_table(const ExchangeGroup& group, const std::vector<ExchangeRow>& rows);

}  // namespace frameshard
