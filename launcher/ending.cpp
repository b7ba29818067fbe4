#include "launcher/ending.h"

#include <chrono>
#include <thread>

#include <unistd.h>

#include "core/phase.h"
#include "launcher/failure.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/text.h"

namespace frameshard {

std::string shared_token(Communicator& world) {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return gather_texts(world, fmt::format("{}-{}", getpid(), now)).front();
}

void report_and_abort(const JobIdentity& job, Communicator& world) {
  const Failure failure = current_failure();
  const FailureClaim claim(job.directory, job.token);
  if (claim.mine()) {
    write_failure_file(job.directory, failure, world.rank(), current_phase());
    print_failure(failure_line(failure, world.rank(), world.size(), job.device, current_phase()));
  }
  // Ranks that fail in the same moment must find the claim, and the one that reports must not be killed
  // meanwhile.
  std::this_thread::sleep_for(std::chrono::milliseconds(claim.mine() ? 200 : 2000));
  if (claim.mine()) claim.release();
  abort_all_ranks(int(failure.code));
}

void report_and_throw(const JobIdentity& job, Communicator& world) {
  const Failure failure = current_failure();
  if (failure.code != ExitCode::stopped) {
    write_failure_file(job.directory, failure, world.rank(), current_phase());
  }
  throw RankFailure(failure.code,
                    failure_line(failure, world.rank(), world.size(), job.device, current_phase()));
}

int end_stopped(const Error& stop, Communicator& world) {
  const std::string phase = current_phase();
  world.barrier();
  if (world.rank() == 0) print_last_line(fmt::format("FAILED at {}: {}", phase, stop.what()));
  world.barrier();
  return int(ExitCode::stopped);
}

}  // namespace frameshard
