// JSON of all ranks.
#pragma once

#include <vector>

#include "core/io/json_file.h"
#include "parallel/comm/communicator.h"

namespace frameshard {

/// Every rank's value, on every rank. Texts of the system in it, such as a host's name, need not be UTF-8:
/// what is not is replaced. Collective.
std::vector<Json> gather_json(Communicator& world, const Json& mine);

}  // namespace frameshard
