#include "launcher/bench/memory.h"

#include <algorithm>

#include "core/error.h"
#include "core/host.h"

namespace frameshard {

void check_bench_memory(const BenchMemory& memory, const std::vector<BenchActivations>& meshes) {
  auto together = [&](const BenchActivations& mesh) {
    return std::min(memory.sharing, mesh.ranks) * mesh.bytes;
  };
  const auto most = std::max_element(meshes.begin(), meshes.end(),
                                     [&](auto& a, auto& b) { return together(a) < together(b); });
  const int64_t needed = memory.sharing * memory.weight_bytes + together(*most);
  if (needed <= memory.free_bytes) return;
  auto text = [](int64_t bytes) { return format_bytes(double(bytes)); };
  const std::string each =
      memory.sharing == 1 ? "" : fmt::format(" on each of the {} ranks that share it", memory.sharing);
  fail(ExitCode::out_of_memory,
       "{} needs {} of weights and about {} while it computes a step{}, {} in all, and {} are free on {}; "
       "choose a "
       "smaller --model or --size, fewer ranks, or --dtype bfloat16",
       memory.model, text(memory.weight_bytes), text(most->bytes), each, text(needed),
       text(memory.free_bytes), memory.place);
}

}  // namespace frameshard
