// What a call threw, for asserting exit codes and messages.
#pragma once

#include <string>

#include "core/error.h"

namespace frameshard::test {

/// The code and message of an Error; ExitCode::ok when nothing was thrown.
struct Caught {
  ExitCode code = ExitCode::ok;
  std::string message = "nothing was thrown";

  bool has(const std::string& part) const { return message.find(part) != std::string::npos; }
};

template <class Call>
Caught caught(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

}  // namespace frameshard::test
