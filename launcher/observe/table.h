// The ranks of a run as a table for people.
#pragma once

#include <span>
#include <string>

#include "launcher/observe/status.h"

namespace frameshard {

/// What a terminal has room for; 0: any number.
struct TableSize {
  size_t columns = 0, lines = 0;
};

/// A title, and a line a rank in the order given, each ended by a newline. Lines are cut at the width; ranks
/// that find no room are counted in the last line.
std::string status_table(std::span<const RankStatus> ranks, const TableSize& size = {});

}  // namespace frameshard
