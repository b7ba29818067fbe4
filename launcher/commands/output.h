// stdout of the commands.
#pragma once

#include <string_view>

namespace frameshard {

/// Writes a text to stdout at once. What fails is kept for check_output(), so that a command comes to its
/// end.
void print_output(std::string_view text);

/// 74 where something that was printed is lost. A reader that has gone wanted no more, and is no error.
void check_output();

}  // namespace frameshard
