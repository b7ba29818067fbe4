#include "launcher/failure.h"

#include <cstdlib>
#include <fstream>

#include <fcntl.h>
#include <unistd.h>

#include "core/host.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/log.h"
#include "launcher/launch/rank_watch.h"

namespace frameshard {
std::string failure_line(const Failure& failure, int rank, int world, const std::string& device,
                         const std::string& phase) {
  const std::string who = world > 1 ? fmt::format(" rank {} (host {}, {})", rank, host_name(), device) : "";
  return fmt::format("FAILED{} at {}: {}", who, phase, failure.message);
}

void print_failure(const std::string& line) {
  log::print(line + "\n");
  note_reported();
}

void print_last_line(const std::string& line) {
  if (const char* file = std::getenv(last_line_variable); file && std::ofstream(file) << line << std::flush)
    return;
  log::print(line + "\n");
}

void write_failure_file(const std::filesystem::path& directory, const Failure& failure, int rank,
                        const std::string& phase) {
  const Json json = {{"code", int(failure.code)},
                     {"rank", rank},
                     {"host", host_name()},
                     {"phase", phase},
                     {"message", failure.message}};
  try {
    write_file_atomically(directory / fmt::format("error.rank{}.json", rank),
                          json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } catch (const Error&) {  // the message on stderr must still come
  }
}

FailureClaim::FailureClaim(const std::filesystem::path& directory, const std::string& token)
    : file_(directory / (".failure-" + token)) {
  const int file = ::open(file_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  mine_ = file >= 0 || errno != EEXIST;
  if (file >= 0) ::close(file);
}

void FailureClaim::release() const {
  ::unlink(file_.c_str());
}

}  // namespace frameshard
