// The runner of every C++ test program: Catch2 2 (Debian 12) or 3 (Ubuntu 24.04). Under mpirun it starts MPI.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include <cstdio>
#include <filesystem>

#include "core/cuda_module.h"
#include "parallel/comm/mpi_session.h"
#include "tests/support/rank_test.h"

namespace frameshard::testing {
Communicator*& mpi_world() {
  static Communicator* world = nullptr;
  return world;
}
}  // namespace frameshard::testing

namespace {

// ctest shows 77 as skipped. Asked before anything else: LibTorch looks for CUDA when a tensor is first made.
constexpr int skipped = 77;
bool lacks_gpu(const char* program) {
  if (std::filesystem::path(program).filename() != "frameshard_gpu" || frameshard::cuda()) return false;
  std::printf("SKIPPED: no GPU: %s\n", frameshard::why_no_cuda().c_str());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (lacks_gpu(argv[0])) return skipped;
  if (!frameshard::launcher_environment().launched) return Catch::Session().run(argc, argv);
  frameshard::MpiSession session;
  frameshard::testing::mpi_world() = &session.world();
  const int failures = Catch::Session().run(argc, argv);
  // A rank that failed alone must not leave the others waiting in MPI_Finalize.
  if (failures != 0) frameshard::abort_all_ranks(1);
  return 0;
}
