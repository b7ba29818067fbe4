#include "launcher/failure.h"

#include <cstdlib>
#include <fstream>
#include <new>

#include <fcntl.h>
#include <unistd.h>

#include "core/host.h"
#include "core/io/atomic_file.h"
#include "core/io/json_file.h"
#include "core/log.h"

namespace frameshard {
namespace {

Failure out_of_memory(const std::string& detail) {
  return {
      ExitCode::out_of_memory,
      fmt::format(
          "out of memory: {}; {} are free on this host; use more ranks for the sequence (cp_size), a smaller "
          "video, or model.dtype=bfloat16",
          detail, format_bytes(double(host_available_bytes())))};
}

// LibTorch's CPU allocator throws a plain c10::Error.
bool is_allocation_failure(const std::string& text) {
  return text.find("DefaultCPUAllocator") != std::string::npos ||
         text.find("not enough memory") != std::string::npos;
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

Failure current_failure() {
  try {
    throw;
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const c10::OutOfMemoryError& error) {
    return out_of_memory(first_line(error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (is_allocation_failure(text)) return out_of_memory(first_line(text));
    return {ExitCode::internal, "LibTorch: " + first_line(text)};
  } catch (const std::filesystem::filesystem_error& error) {
    return {ExitCode::io, error.what()};  // a loop of links, a name that is too long
  } catch (const std::bad_alloc&) {
    return out_of_memory("an allocation failed");
  } catch (const std::exception& error) {
    return {ExitCode::internal, error.what()};
  } catch (...) {
    return {ExitCode::internal, "an unknown exception"};
  }
}

std::string failure_line(const Failure& failure, int rank, int world, const std::string& device,
                         const std::string& phase) {
  const std::string who = world > 1 ? fmt::format(" rank {} (host {}, {})", rank, host_name(), device) : "";
  return fmt::format("FAILED{} at {}: {}", who, phase, failure.message);
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
