#include "launcher/commands/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace frameshard {
namespace {

int first_error = 0;  // of stdout

void note(bool written) {
  if (!written && first_error == 0) first_error = errno;
}

}  // namespace

void print_output(std::string_view text) {
  note(std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0);
}

void check_output() {
  note(std::fflush(stdout) == 0);
  if (first_error == 0 || first_error == EPIPE) return;
  fail(ExitCode::io, "stdout cannot be written: {}", std::strerror(first_error));
}

}  // namespace frameshard
