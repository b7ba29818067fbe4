// Short host data between ranks: texts, numbers, and agreement on them.
#pragma once

#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace frameshard {

/// Every rank's text, on every rank.
std::vector<std::string> gather_texts(Communicator& comm, const std::string& mine);

/// 76 where a rank's text differs from rank 0's; `what` is what they disagree on. Collective.
void check_same_text(Communicator& comm, const std::string& mine, const std::string& what);

/// Every rank's numbers (as many on each), [size][count], on every rank.
std::vector<std::vector<double>> gather_numbers(Communicator& comm, const std::vector<double>& mine);

/// The sum, the largest or the least of every rank's number. Collective.
int64_t reduce_number(Communicator& comm, int64_t mine, ReduceOp op);

}  // namespace frameshard
