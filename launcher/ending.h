// How a job of several ranks ends when one of them fails, or all are asked to stop.
#pragma once

#include <filesystem>
#include <string>

#include "core/error.h"
#include "parallel/comm/communicator.h"

namespace frameshard {

/// A text that is the same on every rank and differs between jobs. Collective.
std::string shared_token(Communicator& world);

/// For ranks that are processes, while an exception is handled: one rank reports its failure, in
/// error.rankN.json in the run's directory and on stderr, and all are ended.
struct JobIdentity {
  std::filesystem::path directory;
  std::string token;   ///< shared_token()
  std::string device;  ///< of this rank
};
[[noreturn]] void report_and_abort(const JobIdentity& job, Communicator& world);

/// For ranks that are threads, likewise: writes the file, and throws the whole line for the user.
[[noreturn]] void report_and_throw(const JobIdentity& job, Communicator& world);

/// All ranks were asked to stop, and have saved what they have: rank 0 says so. Returns the exit code.
/// Collective.
int end_stopped(const Error& stop, Communicator& world);

}  // namespace frameshard
