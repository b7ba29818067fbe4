// Tests whose body every rank runs: on 1 to 5 threads, and under mpirun with processes as ranks.
#pragma once

#include <functional>
#include <initializer_list>

#include <ATen/ATen.h>

#include "core/error.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/thread.h"
#include "tests/support/catch.h"

namespace frameshard::testing {

/// The world under mpirun, else null.
Communicator*& mpi_world();

/// One rank's failure ends all: the others may be waiting for it in a collective.
inline void run_or_abort(const std::function<void(Communicator&)>& body) {
  try {
    body(*mpi_world());
    SUCCEED();
  } catch (const std::exception& error) {
    fmt::print(stderr, "rank {} of {}: {}\n", mpi_world()->rank(), mpi_world()->size(), error.what());
    abort_all_ranks(1);
  }
}

/// Runs the body with each of these rank counts in threads; under mpirun with as many ranks as it started, if
/// that is one of them. Catch2's macros are not made for several threads: bodies use the checks below, which
/// throw.
inline void on_ranks(std::initializer_list<int> counts, const std::function<void(Communicator&)>& body) {
  bool ran = false;
  for (int n : counts) {
    if (mpi_world() && mpi_world()->size() != n) continue;
    ran = true;
    INFO("with " << n << " ranks");
    if (mpi_world()) {
      run_or_abort(body);
    } else {
      REQUIRE_NOTHROW(run_ranks(n, body));
    }
  }
  if (!ran) WARN("not run: mpirun started " << mpi_world()->size() << " ranks");
}

inline void check(bool condition, const std::string& what) {
  if (!condition) throw Error(ExitCode::internal, "check failed: " + what);
}

/// ||a - b|| / ||b||
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor wide = b.to(at::kDouble);
  const double size = wide.norm().item<double>();
  return (a.to(at::kDouble) - wide).norm().item<double>() / (size > 0 ? size : 1);
}

inline void check_close(const at::Tensor& a, const at::Tensor& b, double tolerance, const std::string& what) {
  check(a.sizes() == b.sizes(),
        fmt::format("{}: shapes {} and {}", what, fmt::join(a.sizes(), "x"), fmt::join(b.sizes(), "x")));
  const double error = relative_error(a, b);
  check(error <= tolerance, fmt::format("{}: relative error {:.3g} > {:.3g}", what, error, tolerance));
}

}  // namespace frameshard::testing
