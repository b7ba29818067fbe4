#include "core/failure.h"

#include <filesystem>
#include <new>

#include <c10/util/Exception.h>

#include "core/host.h"

namespace frameshard {
namespace {

// `free`: of the memory that was not enough, where the detail does not say it.
Failure out_of_memory(const std::string& detail, const std::string& free) {
  return {ExitCode::out_of_memory,
          fmt::format("out of memory: {}; {}use more ranks for the sequence (cp_size), a smaller video, or "
                      "bfloat16: model.dtype, and dtype in devices",
                      detail, free)};
}
Failure out_of_host_memory(const std::string& detail) {
  return out_of_memory(detail, format_bytes(double(host_available_bytes())) + " are free on this host; ");
}

// LibTorch's CPU allocator throws a plain c10::Error.
bool is_allocation_failure(const std::string& text) {
  return text.find("DefaultCPUAllocator") != std::string::npos ||
         text.find("not enough memory") != std::string::npos ||
         text.find("could not create a primitive") !=
             std::string::npos ||  // oneDNN, whose buffers did not fit
         text.find("could not create a memory") != std::string::npos;
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
    return out_of_memory(first_line(error.what_without_backtrace()), "");  // a GPU's, with its numbers
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (is_allocation_failure(text)) return out_of_host_memory(first_line(text));
    return {ExitCode::internal, "LibTorch: " + first_line(text)};
  } catch (const std::filesystem::filesystem_error& error) {
    return {ExitCode::io, error.what()};  // a loop of links, a name that is too long
  } catch (const std::bad_alloc&) {
    return out_of_host_memory("an allocation failed");
  } catch (const std::exception& error) {
    if (is_allocation_failure(error.what())) return out_of_host_memory(error.what());
    return {ExitCode::internal, error.what()};
  } catch (...) {
    return {ExitCode::internal, "an unknown exception"};
  }
}

}  // namespace frameshard
