// The runner of every C++ test program: Catch2 2 (Debian 12) or 3 (Ubuntu 24.04). Under mpirun it starts MPI
// first.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include "parallel/comm/mpi_session.h"
#include "tests/support/rank_test.h"

namespace frameshard::testing {
Communicator*& mpi_world() {
  static Communicator* world = nullptr;
  return world;
}
}  // namespace frameshard::testing

int main(int argc, char** argv) {
  if (!frameshard::launcher_environment().launched) return Catch::Session().run(argc, argv);
  frameshard::MpiSession session;
  const auto world = session.world();
  frameshard::testing::mpi_world() = world.get();
  const int failures = Catch::Session().run(argc, argv);
  // A rank that failed alone must not leave the others waiting in MPI_Finalize.
  if (failures != 0) frameshard::abort_all_ranks(1);
  return 0;
}
