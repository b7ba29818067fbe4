// Does a measurement fit into the memory? Asked before anything is allocated. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace frameshard {

struct BenchMemory {
  std::string model, place;  ///< "wan-14b"; "this host", "cuda:0"
  int sharing = 1;           ///< ranks that have this memory together
  int64_t free_bytes = 0;
  int64_t weight_bytes = 0;  ///< of each rank
};
/// Ranks of a mesh and what one of them allocates in a step.
struct BenchActivations {
  int ranks = 1;
  int64_t bytes = 0;
};

/// 71 where the weights of all sharing ranks and the activations of those that compute do not fit, for the
/// mesh that needs most.
void check_bench_memory(const BenchMemory& memory, const std::vector<BenchActivations>& meshes);

}  // namespace frameshard
