// What an exception means to the user.
#pragma once

#include <string>

#include "core/error.h"

namespace frameshard {

struct Failure {
  ExitCode code = ExitCode::internal;
  std::string message;
};

/// What the exception that is being handled means: an Error as it is, memory exhaustion as 71, anything else
/// as a defect.
Failure current_failure();

}  // namespace frameshard
